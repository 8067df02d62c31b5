"""One trace for each notification, through the log and every attempt, whichever door it came by."""

import secrets
from uuid import uuid4

from tests.processes import eventually
from tests.relevo import address

SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5

BEHIND_THE_DOOR = [
    ("relevo-pipeline", "process notifications.requested", CONSUMER),
    ("relevo-pipeline", "send notifications.deduplicated", PRODUCER),
    ("relevo-sender", "process notifications.deduplicated", CONSUMER),
    ("relevo-sender", "smtp send", CLIENT),
    ("relevo-sender", "send notifications.results", PRODUCER),
]


def new_traceparent():
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-01"


def connected(spans, root):
    """Whether every span hangs below *root*."""
    known = {span.span_id for span in spans} | {root}
    return all(span.parent_id in known for span in spans)


def complete(collector, trace_id, wanted):
    def look():
        spans = collector.trace(trace_id)
        found = {(span.service, span.name, span.kind) for span in spans}
        assert found >= set(wanted), set(wanted) - found
        return spans

    return eventually(look)


def test_over_http_the_callers_trace_goes_on_to_the_result(relevo, collector):
    trace_id, root, traceparent = new_traceparent()
    request = {"to": address(), "subject": "s", "body": "b"}
    status, answer, _ = relevo.post("/api/notify/", request, traceparent=traceparent)
    assert status == 202
    assert answer["trace_id"] == trace_id
    told = relevo.wait_for(answer["id"], "sent")
    assert told["trace_id"] == trace_id
    door = [
        ("relevo-ingest", "POST /api/notify/", SERVER),
        ("relevo-ingest", "send notifications.requested", PRODUCER),
    ]
    spans = complete(collector, trace_id, door + BEHIND_THE_DOOR)
    assert connected(spans, root)
    assert {each["trace_id"] for each in relevo.results(answer["id"])} == {trace_id}
    for record in relevo.records("notifications.deduplicated"):
        if record.key() == answer["id"].encode():
            assert dict(record.headers())["traceparent"].decode().split("-")[1] == trace_id
    by_name = {span.name: span.attributes for span in spans}
    sent = by_name["send notifications.requested"]
    assert sent["messaging.system"] == "kafka"
    assert sent["messaging.destination.name"] == "notifications.requested"
    assert sent["messaging.operation.type"] == "send"
    processed = by_name["process notifications.requested"]
    assert processed["messaging.consumer.group.name"] == "relevo.pipeline"
    assert processed["messaging.message.id"] == answer["id"]
    assert processed["relevo.dedupe.answer"] == "new"
    assert by_name["POST /api/notify/"]["http.response.status_code"] == 202
    assert by_name["smtp send"]["smtp.response.status_code"] == 250
    assert not any("@" in str(value) for span in spans for value in span.attributes.values())


def test_over_kafka_each_item_of_an_array_keeps_its_own_trace(relevo, collector):
    traces = [new_traceparent() for _ in range(3)]
    items = [
        {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b", "traceparent": traceparent}
        for _, _, traceparent in traces
    ]
    relevo.produce(items)
    for item, (trace_id, root, _) in zip(items, traces, strict=True):
        relevo.wait_for(item["id"], "sent")
        spans = complete(collector, trace_id, BEHIND_THE_DOOR)
        assert connected(spans, root)


def test_a_lone_records_header_is_its_trace_and_each_attempt_a_span(relevo, collector):
    trace_id, root, traceparent = new_traceparent()
    identity = str(uuid4())
    request = {"id": identity, "to": address("451x1"), "subject": "s", "body": "b"}
    relevo.produce(request, headers=[("traceparent", traceparent.encode())])
    relevo.wait_for(identity, "sent")
    spans = complete(collector, trace_id, BEHIND_THE_DOOR)
    assert connected(spans, root)
    attempts = sorted(
        (span.attributes for span in spans if span.name == "smtp send"), key=lambda each: each["relevo.attempt"]
    )
    assert [each["relevo.attempt"] for each in attempts] == [1, 2]
    assert [each["smtp.response.status_code"] for each in attempts] == [451, 250]
    assert attempts[0]["error.type"] == "smtp_451"
    results = [span for span in spans if span.name == "send notifications.results"]
    assert {span.attributes["relevo.status"] for span in results} == {"retrying", "sent"}


def test_a_browsers_trace_is_linked_and_not_trusted(relevo, collector):
    trace_id, _, traceparent = new_traceparent()
    form = {"name": "Ana", "email": "ana@example.com", "message": "hola"}
    status, answer, _ = relevo.post("/api/contact/", form, traceparent=traceparent)
    assert status == 202
    own = relevo.wait_for(answer["id"], "sent")["trace_id"]
    assert own != trace_id
    spans = complete(collector, own, [("relevo-ingest", "POST /api/contact/", SERVER)])
    [server] = [span for span in spans if span.kind == SERVER]
    assert server.links == (trace_id,)
    assert server.parent_id == ""
    assert collector.trace(trace_id) == []
