"""
What schemathesis is told about this service: the rules that JSON Schema has no words for.

Loaded by SCHEMATHESIS_HOOKS.
"""

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from ingest.waiting import WAIT_S_MAX
from schemas.addresses import check_address


def _is_one_address(text):
    try:
        check_address(text)
    except ValueError:
        return False
    return True


# The built-in strategy makes addresses that RFC 5321 allows and no relay on earth takes.
_ordinary = st.from_regex(r"[a-z0-9]{1,20}([._+-][a-z0-9]{1,9}){0,3}@([a-z0-9]{1,20}\.){1,3}[a-z]{2,9}", fullmatch=True)
schemathesis.openapi.format("email", st.one_of(_ordinary, st.emails()).filter(_is_one_address))


def _integers_fit(value):
    if isinstance(value, dict):
        return all(map(_integers_fit, value.values()))
    if isinstance(value, list):
        return all(map(_integers_fit, value))
    return isinstance(value, bool) or not isinstance(value, int) or -(2**63) <= value < 2**63


@schemathesis.hook
def filter_case(_context, case):
    """Leave out what looks valid to JSON Schema and is not: long integers, two identities at once, moments, windows."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return True
    two_identities = isinstance(case.body, dict) and "id" in case.body and "Idempotency-Key" in (case.headers or {})
    # An order to replay whose window ends before it begins.
    window = isinstance(case.body, dict) and {"from", "to"} <= case.body.keys()
    return (
        not two_identities and not window and not _is_timed(case) and not _is_made_up(case) and _integers_fit(case.body)
    )


def _is_timed(case):
    """Whether a request has moments of its own, which are held against one another and against now."""
    if not isinstance(case.body, dict) or not case.operation.path.startswith("/api/notify"):
        return False
    items = case.body.get("items", [case.body])
    timed = {"scheduled_for", "expires_at", "time_zone"}
    return any(isinstance(item, dict) and any(item.get(name) is not None for name in timed) for item in items)


def _is_made_up(case):
    """Whether a list is asked for with a cursor that nobody gave out, or with a window that may hold no moment."""
    return case.operation.path == "/api/notifications" and (
        "cursor" in (case.query or {}) or {"from", "to"} <= (case.query or {}).keys()
    )


@schemathesis.hook
def before_call(_context, case, **_options):
    """Wait for a second at most: nothing is delivered here, and the client itself waits for ten."""
    wait = str((case.query or {}).get("wait", ""))
    if wait.isascii() and wait.isdigit() and 1 < int(wait) <= WAIT_S_MAX:
        case.query["wait"] = 1
