"""
Traces: one per notification, from the door to the last attempt.

A context travels as a W3C traceparent: in the HTTP header, in the notification's row, in record headers, and,
where a record carries many requests, in each of them. Names and attributes follow the OpenTelemetry semantic
conventions 1.44 for HTTP (stable) and messaging (development). Spans are recorded and exported over OTLP when
OTEL_EXPORTER_OTLP_ENDPOINT (or the _TRACES_ variant) is set; otherwise only the context is carried.

Sampling: a caller's decision is followed, in both directions; of the traces that begin here, ROOT_RATIO are recorded.
OTEL_TRACES_SAMPLER decides otherwise. What is not recorded costs no span of the SDK: its context travels as text.
"""

import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE_ID, _NO_SPAN_ID = "0" * 32, "0" * 16
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

Attributes = Mapping[str, str | int | float | bool]

# Of the traces that begin here. One in a hundred shows how long things take; what became of one notification is in
# its timeline, whether its trace was recorded or not.
ROOT_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Sampling:
    """
    Which spans the SDK gets to see.

    tracer: None while nothing is exported. root_ratio: of the new traces; 1: the SDK's own sampler decides.
    follows_parent: whether what the caller does not record is not recorded here either.
    """

    tracer: trace.Tracer | None = None
    root_ratio: float = 0.0
    follows_parent: bool = True


_sampling = Sampling()


class _Unrecorded(NonRecordingSpan):
    """A span that nobody records: the context that it carries on, as the text that it will be asked for."""

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def get_span_context(self) -> SpanContext:
        context = read_traceparent(self.traceparent)
        assert context is not None, "it was checked, or made here"
        return context


def start_tracing(service: str, instance: str) -> TracerProvider:
    """
    Begin to make spans for *service*. Call once, before the first span; `shutdown()` of what is returned flushes.

    The exporter runs in a thread of its own behind a bounded queue: a collector that is away or slow costs spans,
    never time.
    """
    global _sampling  # noqa: PLW0603 -- one per process, like the logger
    tracer = None
    resource = Resource.create({"service.name": f"relevo-{service}", "service.instance.id": instance})
    chosen = os.environ.get("OTEL_TRACES_SAMPLER", "")
    provider = TracerProvider(resource=resource, sampler=None if chosen else DEFAULT_ON)
    if any(os.environ.get(name) for name in _ENDPOINTS):
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        tracer = provider.get_tracer("relevo")
    _sampling = Sampling(tracer, 1.0 if chosen else ROOT_RATIO, not chosen or chosen.startswith("parentbased"))
    return provider


def _parts(text: str | None) -> re.Match[str] | None:
    """Return what *text* says: version, trace id, span id, flags; None if it is no context (W3C Trace Context 3.2)."""
    found = _TRACEPARENT.fullmatch(text) if text else None
    if found is None:
        return None
    version, trace_id, span_id, _, more = found.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE_ID or span_id == _NO_SPAN_ID:
        return None
    return found


def read_traceparent(text: str | None) -> SpanContext | None:
    """Return the context that *text* names; None: there is none, or it is malformed (W3C Trace Context 3.2)."""
    found = _parts(text)
    if found is None:
        return None
    _, trace_id, span_id, flags, _ = found.groups()
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def traceparent_of(span: Span) -> str:
    """Return *span* as a traceparent, for others to continue."""
    if isinstance(span, _Unrecorded):
        return span.traceparent
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def is_recorded(traceparent: str | None) -> bool:
    """
    Tell whether a span below *traceparent* may be recorded: of others nothing need be prepared.

    Args:
        traceparent: well-formed; None: a new trace, which may be.
    """
    if _sampling.tracer is None:
        return False
    return traceparent is None or not _sampling.follows_parent or int(traceparent[53:55], 16) & 1 == 1


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the trace id in *traceparent*, 32 hexadecimal digits; None: it has none."""
    found = _parts(traceparent)
    return None if found is None else found[2]


def start_span(
    name: str,
    kind: SpanKind,
    *,
    parent: str | None = None,
    links: Sequence[str | None] = (),
    attributes: Attributes | Callable[[], Attributes] | None = None,
) -> Span:
    """
    Start a span; the caller ends it.

    Args:
        parent: the traceparent to continue; None or malformed: a new trace.
        links: traceparents to point to without continuing them; the malformed ones are left out.
        attributes: or what makes them; that is called only if the span is recorded.
    """
    sampling, context = _sampling, read_traceparent(parent)
    if context is None or parent is None:
        if sampling.tracer is None or random.random() >= sampling.root_ratio:
            return _Unrecorded(f"00-{_random_hex(128)}-{_random_hex(64)}-00")
    elif sampling.tracer is None or (sampling.follows_parent and not context.trace_flags.sampled):
        # Up to the flags: who comes after us need not record what hangs below a span that is nowhere.
        return _Unrecorded(f"00{parent[2:53]}00")
    linked = [Link(each) for each in map(read_traceparent, links) if each is not None]
    around = trace.set_span_in_context(trace.INVALID_SPAN if context is None else NonRecordingSpan(context))
    described = attributes() if callable(attributes) else attributes
    return sampling.tracer.start_span(name, around, kind, described, linked)


def _random_hex(bits: int) -> str:
    # All zero means "none" (W3C Trace Context 3.2.2).
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"


@contextmanager
def span(
    name: str,
    kind: SpanKind,
    *,
    parent: str | None = None,
    links: Sequence[str | None] = (),
    attributes: Attributes | None = None,
) -> Iterator[Span]:
    """Run the body inside a span; what it raises ends the span with an error and goes on."""
    made = start_span(name, kind, parent=parent, links=links, attributes=attributes)
    try:
        yield made
    except BaseException as error:
        fail_span(made, type(error).__name__)
        raise
    finally:
        made.end()


def fail_span(made: Span, error_type: str) -> None:
    """Mark *made* as failed; error_type comes from a closed set and holds no personal data."""
    made.set_attribute("error.type", error_type)
    made.set_status(Status(StatusCode.ERROR))


def messaging(operation: str, topic: str, **more: str | int) -> dict[str, str | int]:
    """
    Return the attributes of a messaging span.

    Args:
        operation: send or process.
        more: further attributes without their `messaging.` prefix, with `__` for a dot.
    """
    attributes: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
    }
    for name, value in more.items():
        attributes["messaging." + name.replace("__", ".")] = value
    return attributes
