"""What is plain to see is not validated field by field; it comes out as the validator would make it."""

from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.messages import Content, ordinary_content

STRANGE = ["", "a", " ", "\n", "\t", "\x00", "\x7f", "\x85", "\u2028", "\u200b", "\xa0", "é", "😀", "\ud800", "x" * 300]
TEXT = st.lists(st.sampled_from(STRANGE), max_size=3).map("".join) | st.sampled_from([None, 1, True, [], "plain"])
ADDRESS = st.sampled_from(
    [
        *("a@example.org", "A@Example.ORG", "sim+ok@simulator.invalid", "sim+unknown@simulator.invalid", "x", "a@b"),
        *(" a@b.co", "é@ñ.mx", "a" * 250 + "@x.org", "a@example.org\n", None, 1, ""),
    ]
)
METADATA = st.dictionaries(
    st.sampled_from(["k", "", "x" * 65, "a\nb", "é"]),
    st.sampled_from([None, True, 1, 10**30, 1.5, float("nan"), "v", "x" * 257, [], {}]),
    max_size=3,
)
REQUEST = st.fixed_dictionaries(
    {"to": ADDRESS | st.just("a@example.org"), "subject": TEXT | st.just("s"), "body": TEXT | st.just("b\n")},
    optional={
        "html": TEXT,
        "reply_to": ADDRESS,
        "metadata": METADATA | st.sampled_from([None, 1, {str(n): n for n in range(60)}]),
        "channel": st.sampled_from(["email", "sms", None]),
        "on_doubt": st.sampled_from(["hold", "resend", "no", None]),
        "expires_at": st.none(),
        "other": TEXT,
    },
)


@given(REQUEST)
@example({"to": "A@Example.ORG", "subject": "s", "body": "b", "metadata": {"k": 1, "t": True}})
def test_it_is_what_the_validator_makes_of_it(given_):
    quick = ordinary_content(given_)
    if quick is None:
        return
    try:
        careful = Content.model_validate(given_)
    except ValidationError:
        careful = None
    assert quick == careful
    assert quick.model_fields_set == careful.model_fields_set
    assert list(quick.__dict__.items()) == list(careful.__dict__.items())
    assert [type(each) for each in quick.__dict__.values()] == [type(each) for each in careful.__dict__.values()]


def test_an_ordinary_request_is_one():
    request = {"to": "a@example.org", "subject": "Alerta", "body": "Línea 1\nLínea 2", "metadata": {"order": 1}}
    assert ordinary_content(request) == Content.model_validate(request)
