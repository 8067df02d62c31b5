"""
What schemathesis is told about this service: the rules that JSON Schema has no words for.

Loaded by SCHEMATHESIS_HOOKS.
"""

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from schemas.addresses import check_address

INTEGER_CHARS_MAX = 19


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
    return isinstance(value, bool) or not isinstance(value, int) or len(str(value)) <= INTEGER_CHARS_MAX


@schemathesis.hook
def filter_case(_context, case):
    """Leave out what looks valid to JSON Schema and is not: very long integers, and two identities at once."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return True
    two_identities = isinstance(case.body, dict) and "id" in case.body and "Idempotency-Key" in (case.headers or {})
    return not two_identities and _integers_fit(case.body)
