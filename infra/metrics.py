"""
The metric catalogue. Nothing else creates a metric, and a house test finds each of them in the README.

Base units, `_total` on counters. Labels come from closed sets: never an id, an address or a host.
"""

from functools import cache

from prometheus_client import Counter, Gauge, Histogram

_LATENCY_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    3600.0,
)

HTTP_REQUESTS = Counter("relevo_http_requests_total", "HTTP answers", ["route", "status"])
HTTP_SECONDS = Histogram(
    "relevo_http_request_seconds", "Seconds from request to answer", ["route"], buckets=_LATENCY_BUCKETS
)
HTTP_WAITING = Gauge("relevo_http_waiting", "Callers that wait for an outcome: ?wait of a status")
ACCEPTED = Counter(
    "relevo_accepted_total", "Notifications accepted over HTTP, by answer: new, replayed, conflict", ["answer"]
)
RATE_LIMITED = Counter(
    "relevo_rate_limited_total", "Calls refused with 429, by limit: notify, contact, orders", ["limit"]
)
RATE_LIMIT_OPEN = Counter(
    "relevo_rate_limit_open_total", "Calls that passed a limit uncounted, because Redis did not answer", ["limit"]
)
OUTBOX_ROWS = Gauge("relevo_outbox_rows", "Accepted notifications that Kafka has not acknowledged")
OUTBOX_OLDEST_SECONDS = Gauge("relevo_outbox_oldest_seconds", "Age of the oldest of them")
PUBLISHED = Counter("relevo_published_total", "Notifications acknowledged by Kafka, by path: fast, sweep", ["path"])
REPLAYED = Counter(
    "relevo_replayed_total", "Candidates of orders to replay, by what came of them: replayed, or why not", ["outcome"]
)
DEDUPED = Counter("relevo_deduped_total", "Answers of the Redis-backed table", ["answer"])
REJECTED = Counter("relevo_rejected_total", "Items of records that could not become notifications", ["code"])
DEAD_LETTERS_STOPPED = Gauge(
    "relevo_dead_letters_stopped", "1 while the pipeline stands still because nearly nothing can be read"
)
STALLED_PARTITIONS = Gauge(
    "relevo_stalled_partitions", "Partitions whose records wait while this process does nothing about them"
)
ATTEMPTS = Counter(
    "relevo_attempts_total", "Attempts to hand a notification to the relay, by what came of it", ["verdict"]
)
OUTCOMES = Counter("relevo_outcomes_total", "Notifications that reached a terminal state", ["state"])
OUTCOMES.labels("in_doubt")  # from zero: the first one must be an increase, or no alert hears of it
IN_FLIGHT = Gauge("relevo_in_flight", "Notifications that this sender is working on")
END_TO_END_SECONDS = Histogram(
    "relevo_end_to_end_seconds",
    "Seconds from acceptance to the relay's answer, of what was sent",
    buckets=_LATENCY_BUCKETS,
)
CHANNEL_STOPPED = Gauge(
    "relevo_channel_stopped", "1 while the relay refuses our login or certificate: a person must act"
)
BREAKER_OPEN = Gauge("relevo_breaker_open", "1 while the relay is away; nothing is lost, and no attempt is burnt")
PUT_BACK = Counter(
    "relevo_put_back_total",
    "Notifications put back on Kafka, by reason: due (its time, or a later attempt), forgotten (an alert)",
    ["reason"],
)
PUT_BACK.labels("forgotten")  # from zero, as above
UNACCOUNTED = Gauge("relevo_unaccounted", "Accepted notifications that the last look found in nobody's hand")
RESULTS_PUBLISHED = Counter("relevo_results_published_total", "Results acknowledged by Kafka", ["path"])
FEED_RESULTS = Counter(
    "relevo_feed_results_total", "Results that the feed has handled: status, statistics, webhooks", ["reader"]
)
FEED_UNREADABLE = Counter(
    "relevo_feed_unreadable_total", "Records on the results topic that are no results, passed over", ["reader"]
)
FEED_LAG = Gauge("relevo_feed_lag", "Results that wait for this process, by reader", ["reader"])
WEBHOOK_DELIVERIES = Counter(
    "relevo_webhook_deliveries_total",
    "Attempts to deliver an event to a webhook, by what became of it: delivered, postponed (another attempt follows), "
    "failed; expired: still waiting when it was too old to be kept",
    ["outcome"],
)
for _outcome in ("delivered", "postponed", "failed", "expired"):
    WEBHOOK_DELIVERIES.labels(_outcome)  # from zero, as above
WEBHOOK_OLDEST_SECONDS = Gauge(
    "relevo_webhook_oldest_seconds", "Age of the oldest event that an enabled webhook has not got"
)
WEBHOOKS_IN_TROUBLE = Gauge(
    "relevo_webhooks_in_trouble",
    "Webhooks that are disabled (their receiver said 410), failing (no success for an hour), or keyless: their client "
    "has no key any more",
    ["trouble"],
)
READY = Gauge("relevo_ready", "1 while this process is ready, as /readyz says")
DEPENDENCY_UP = Gauge("relevo_dependency_up", "1 while the dependency answers", ["dependency"])
LOG_LINES_HELD_BACK = Counter(
    "relevo_log_lines_held_back_total", "Log lines of libraries that were too many", ["logger"]
)


# Of closed sets, all of them. Looking a metric up by its labels costs more than counting.
@cache
def http_requests(route: str, status: int) -> Counter:
    """Return the counter of HTTP_REQUESTS for one route and one status."""
    return HTTP_REQUESTS.labels(route, str(status))


@cache
def accepted(answer: str) -> Counter:
    """Return the counter of ACCEPTED for one answer."""
    return ACCEPTED.labels(answer)


@cache
def http_seconds(route: str) -> Histogram:
    """Return the histogram of HTTP_SECONDS for one route."""
    return HTTP_SECONDS.labels(route)


@cache
def attempts(verdict: str) -> Counter:
    """Return the counter of ATTEMPTS for one verdict."""
    return ATTEMPTS.labels(verdict)


@cache
def outcomes(state: str) -> Counter:
    """Return the counter of OUTCOMES for one state."""
    return OUTCOMES.labels(state)
