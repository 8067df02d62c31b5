"""The frame: every request has an id and a trace, every error is a problem, and a stop waits for those under way."""

import asyncio
import json

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from infra import telemetry
from ingest.cors import Cors
from ingest.exchange import EXCHANGE, Frame, Traffic, documented, framed, request_id_of
from ingest.publisher import Publisher
from schemas.errors import TransientError
from schemas.messages import Notification
from schemas.records import header
from tests.unit.ingest.fakes import make_accepted

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ORIGIN = "https://www.example.org"


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_sampling", telemetry.Sampling(provider.get_tracer("test"), 1.0))
    return exporter


async def answered(handler, path="/api/notify/", method="POST", **headers):
    """Frame *handler* and call it for *path*."""
    app = web.Application()
    app.router.add_route("*", path, handler)
    request = make_mocked_request(
        method, path, headers={name.replace("_", "-"): each for name, each in headers.items()}
    )
    request._match_info = await app.router.resolve(request)
    return request, await framed(Frame(Cors([ORIGIN], local=False), Traffic()))(request, handler)


async def fine(_request):
    return web.Response(text="fine")


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "x" * 64])
def test_a_request_keeps_an_id_that_is_one(given):
    assert request_id_of(given) == given


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "ñ", "a\n", "<script>"])
def test_it_gets_a_new_one_otherwise(given):
    made = request_id_of(given)
    assert made != given
    assert request_id_of(made) == made


@pytest.mark.parametrize(
    ("canonical", "spelling"),
    [
        ("/healthz/", "/healthz"),
        ("/api/contact", "/api/contact/"),
        ("/api/notifications/{id}/", "/api/notifications/{id}"),
    ],
)
def test_both_spellings_of_a_path_count_as_one(canonical, spelling):
    assert documented(canonical) == documented(spelling) == spelling


async def test_a_service_continues_its_trace(spans):
    request, _ = await answered(fine, traceparent=GIVEN)
    (span,) = spans.get_finished_spans()
    assert (span.name, span.kind) == ("POST /api/notify/", SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == GIVEN.split("-")[1]
    assert f"{span.parent.span_id:016x}" == GIVEN.split("-")[2]
    assert span.attributes["http.response.status_code"] == 200
    assert span.attributes["http.route"] == "/api/notify/"
    assert request[EXCHANGE].traceparent == telemetry.traceparent_of(span)


async def test_a_visitors_trace_is_only_linked_to(spans):
    await answered(fine, "/api/contact/", traceparent=GIVEN)
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" != GIVEN.split("-")[1]
    assert f"{span.links[0].context.trace_id:032x}" == GIVEN.split("-")[1]


async def test_health_is_not_traced(spans):
    await answered(fine, "/healthz", "GET")
    assert spans.get_finished_spans() == ()


async def test_what_breaks_is_a_problem_that_says_nothing(spans):
    async def broken(_request):
        raise ZeroDivisionError("secret")

    _, response = await answered(broken)
    assert response.status == 500
    assert "secret" not in response.body.decode()
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "internal_error"
    assert span.events == ()


async def test_a_problem_of_the_contact_form_can_be_read_by_the_page(spans):
    async def away(_request):
        raise TransientError("away")

    _, response = await answered(away, "/api/contact/", Origin=ORIGIN)
    assert response.status == 503
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert json.loads(response.body)["code"] == "unavailable"


async def test_a_stop_waits_for_what_is_under_way_and_no_longer_than_it_may():
    traffic = Traffic()
    with traffic:
        async with asyncio.timeout(1):
            await traffic.end(0.01)
    async with asyncio.timeout(1):
        await traffic.end(60)
    assert traffic.ending


class FakeProducer:
    """Acknowledges everything at once."""

    def __init__(self):
        self.records = []

    def produce(self, topic, **record):
        self.records.append(record)
        record["on_delivery"](None, self)

    def partition(self):
        return 2

    def offset(self):
        return 912

    def flush(self, _timeout_s):
        return 0


def published(rows):
    publisher = Publisher("nowhere", name="test")
    publisher._producer = FakeProducer()
    done = publisher._publish(rows)
    publisher.close()
    return publisher._producer.records, done


def under(row, traceparent):
    return type(row)(Notification(row.notification.id, row.notification.content, traceparent), row.accepted_at)


def test_each_sampled_notification_has_a_span_whose_context_travels_on(spans):
    rows = [under(make_accepted(), GIVEN) for _ in range(2)]
    (record,), done = published(rows)
    found = spans.get_finished_spans()
    assert [(span.name, span.kind) for span in found] == [("send notifications.requested", SpanKind.PRODUCER)] * 2
    assert all(f"{span.parent.span_id:016x}" == GIVEN.split("-")[2] for span in found)
    travelling = [item["traceparent"] for item in json.loads(record["value"])]
    assert travelling == [telemetry.traceparent_of(span) for span in found]
    assert [(each.partition, each.offset, each.index) for each in done] == [(2, 912, 0), (2, 912, 1)]


def test_a_lone_one_carries_it_in_the_header(spans):
    (record,), _ = published([under(make_accepted(), GIVEN)])
    (span,) = spans.get_finished_spans()
    assert header(record["headers"], "traceparent") == telemetry.traceparent_of(span)


def test_one_that_is_not_sampled_passes_its_context_on_without_a_span(spans):
    unsampled = GIVEN[:-1] + "0"
    (record,), _ = published([under(make_accepted(), unsampled)])
    assert spans.get_finished_spans() == ()
    assert header(record["headers"], "traceparent") == unsampled
