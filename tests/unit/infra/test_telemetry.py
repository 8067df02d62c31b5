"""A context travels as a W3C traceparent, sampled or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from infra import telemetry
from infra.telemetry import (
    ROOT_RATIO,
    Sampling,
    fail_span,
    is_recorded,
    messaging,
    read_traceparent,
    span,
    start_span,
    start_tracing,
    trace_id_of,
    traceparent_of,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACE = f"00-{TRACE_ID}-{SPAN_ID}-01"
ARABIC_ZERO = "\u0660"
OTHER = f"00-{'1' * 32}-{'2' * 16}-01"


@pytest.fixture
def spans(monkeypatch):
    """Record every span; the list of those that ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_sampling", Sampling(provider.get_tracer("test"), 1.0))
    return exporter.get_finished_spans


@pytest.fixture
def nothing_recorded(monkeypatch):
    monkeypatch.setattr(telemetry, "_sampling", Sampling())


@pytest.mark.parametrize("flags", ["00", "01", "03", "ff"])
def test_a_traceparent_is_read(flags):
    context = read_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")
    assert f"{context.trace_id:032x}" == TRACE_ID
    assert f"{context.span_id:016x}" == SPAN_ID
    assert context.trace_flags.sampled == (flags != "00")
    assert context.is_remote
    assert trace_id_of(TRACE) == TRACE_ID


@pytest.mark.parametrize(
    "text", [f"cc-{TRACE_ID}-{SPAN_ID}-01", f"01-{TRACE_ID}-{SPAN_ID}-01-what-will-be", f"01-{TRACE_ID}-{SPAN_ID}-01-"]
)
def test_what_a_later_version_adds_is_ignored(text):
    assert trace_id_of(text) == TRACE_ID


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00",
        TRACE_ID,
        TRACE.upper(),
        f" {TRACE}",
        f"{TRACE} ",
        f"{TRACE}\n",
        f"{TRACE}-",
        f"{TRACE}-more",
        f"{TRACE}0",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"0-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}g-01",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
        f"00-{TRACE_ID}-{SPAN_ID}-",
        f"00_{TRACE_ID}_{SPAN_ID}_01",
        f"cc-{TRACE_ID}-{SPAN_ID}-01.more",
        f"00-{ARABIC_ZERO * 32}-{SPAN_ID}-01",
    ],
)
def test_what_is_malformed_is_no_context(text):
    assert read_traceparent(text) is None
    assert trace_id_of(text) is None


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{2}(-x)?"))
def test_any_text_is_a_context_or_none(text):
    context = read_traceparent(text)
    assert context is None or context.is_valid


def test_a_span_continues_the_trace_it_is_given(spans):
    with span("process", SpanKind.CONSUMER, parent=TRACE) as made:
        passed_on = traceparent_of(made)
        with span("send", SpanKind.PRODUCER, parent=passed_on):
            pass
    child, parent = spans()
    assert f"{parent.parent.span_id:016x}" == SPAN_ID
    assert child.parent.span_id == parent.context.span_id
    assert {f"{each.context.trace_id:032x}" for each in (child, parent)} == {TRACE_ID}
    assert (parent.kind, child.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)


@pytest.mark.parametrize("parent", [None, "", "malformed"])
def test_without_a_context_a_new_trace_begins_even_inside_another_span(spans, parent):
    from opentelemetry import trace

    with (
        trace.use_span(start_span("outer", SpanKind.SERVER), end_on_exit=True),
        span("inner", SpanKind.SERVER, parent=parent),
    ):
        pass
    inner, outer = spans()
    assert inner.parent is None
    assert inner.context.trace_id != outer.context.trace_id


def test_a_link_points_without_continuing(spans):
    with span("contact", SpanKind.SERVER, links=[TRACE, None, "malformed", OTHER]):
        pass
    (made,) = spans()
    assert made.parent is None
    assert [f"{link.context.trace_id:032x}" for link in made.links] == [TRACE_ID, "1" * 32]


def test_an_error_ends_the_span_with_its_name_and_without_its_words(spans):
    with pytest.raises(ValueError, match="canary"), span("send", SpanKind.CLIENT):
        raise ValueError("canary@example.org")
    (made,) = spans()
    assert made.status.status_code is StatusCode.ERROR
    assert made.attributes == {"error.type": "ValueError"}
    assert made.events == ()
    assert "canary" not in made.to_json()


def test_a_failure_can_be_told_without_an_exception(spans):
    with span("send", SpanKind.CLIENT, attributes={"a": 1}) as made:
        fail_span(made, "smtp_450")
    assert spans()[0].attributes == {"a": 1, "error.type": "smtp_450"}


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize("parent", [TRACE, None])
def test_where_nothing_is_recorded_the_trace_goes_on(parent):
    with span("process", SpanKind.CONSUMER, parent=parent) as made:
        passed_on = traceparent_of(made)
    assert not made.is_recording()
    context = read_traceparent(passed_on)
    assert context is not None
    assert not context.trace_flags.sampled
    if parent:
        assert trace_id_of(passed_on) == TRACE_ID


@pytest.mark.usefixtures("spans")
@pytest.mark.parametrize("flags", ["00", "01", "02", "03", "fe", "ff"])
def test_whether_a_span_would_be_recorded_is_known_beforehand(flags):
    parent = f"00-{TRACE_ID}-{SPAN_ID}-{flags}"
    with span("process", SpanKind.CONSUMER, parent=parent) as made:
        assert made.is_recording() == is_recorded(parent)
    assert is_recorded(None)


@pytest.mark.usefixtures("nothing_recorded")
@pytest.mark.parametrize("parent", [TRACE, None])
def test_without_a_tracer_nothing_would_be_recorded(parent):
    assert not is_recorded(parent)


def test_an_unsampled_parent_is_not_recorded(spans):
    with span("process", SpanKind.CONSUMER, parent=f"00-{TRACE_ID}-{SPAN_ID}-00") as made:
        assert traceparent_of(made).endswith("-00")
        assert trace_id_of(traceparent_of(made)) == TRACE_ID
    assert spans() == ()


@pytest.mark.parametrize(
    ("environment", "recording"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}, True),
    ],
)
def test_spans_are_recorded_only_where_they_can_go(monkeypatch, environment, recording):
    monkeypatch.setattr(telemetry, "_sampling", telemetry._sampling)
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"OTEL_TRACES_SAMPLER": "always_on"} | environment).items():
        monkeypatch.setenv(name, value)
    provider = start_tracing("sender", "sender-1")
    # Never ended, so nothing is sent to the address.
    assert start_span("x", SpanKind.CLIENT).is_recording() is recording
    assert provider.resource.attributes["service.name"] == "relevo-sender"
    assert provider.resource.attributes["service.instance.id"] == "sender-1"
    provider.shutdown()


def test_the_attributes_are_those_of_the_messaging_conventions():
    assert messaging("process", "notifications.requested", consumer__group__name="relevo", kafka__offset=5) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "notifications.requested",
        "messaging.consumer.group.name": "relevo",
        "messaging.kafka.offset": 5,
    }


@pytest.mark.parametrize(
    ("sampler", "new", "below_recorded", "below_unrecorded"),
    [
        ("", ROOT_RATIO, 1.0, 0.0),
        ("always_on", 1.0, 1.0, 1.0),
        ("parentbased_always_on", 1.0, 1.0, 0.0),
        ("always_off", 0.0, 0.0, 0.0),
    ],
)
def test_a_caller_is_followed_and_of_new_traces_a_few_are_recorded(
    monkeypatch, sampler, new, below_recorded, below_unrecorded
):
    monkeypatch.setattr(telemetry, "_sampling", telemetry._sampling)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    provider = start_tracing("sender", "sender-1")

    def share(parent, tries):
        made = [start_span("x", SpanKind.CLIENT, parent=parent).is_recording() for _ in range(tries)]
        return sum(made) / tries

    assert share(None, 20_000) == pytest.approx(new, abs=0.005)
    assert share(TRACE, 10) == below_recorded
    assert share(f"{TRACE[:-2]}00", 10) == below_unrecorded
    provider.shutdown()
