"""The contact form becomes mail to the owners, never to the visitor."""

from ingest.contact import notifications_of
from schemas.identity import contact_id, new_id
from schemas.limits import CONTACT_MESSAGE_CHARS_MAX, NAME_CHARS_MAX
from schemas.messages import ContactRequest
from tests.unit.ingest.fakes import TRACEPARENT

RECIPIENTS = ("ventas@example.org", "jefa@example.org")


def notifications(**changes):
    given = {"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un billón."} | changes
    form = ContactRequest(**given)
    first = new_id()
    return first, notifications_of(form, first=first, recipients=RECIPIENTS, traceparent=TRACEPARENT)


def test_each_recipient_gets_one_with_an_id_of_its_own():
    first, made = notifications()
    assert [each.id for each in made] == [first, contact_id(first, 1)]
    assert [each.content.to for each in made] == list(RECIPIENTS)


def test_the_visitor_is_only_the_reply_to():
    _, made = notifications()
    assert all(each.content.reply_to == "elon@xcorp.com" for each in made)
    assert all(each.content.to != "elon@xcorp.com" for each in made)


def test_the_mail_is_plain_text_and_says_who_wrote_what():
    _, (made, _) = notifications(message="<b>Hola</b>\n.\nQUIT")
    assert made.content.html is None
    assert made.content.subject == "Mensaje de contacto de Elon Musk"
    for part in ("Elon Musk", "elon@xcorp.com", "<b>Hola</b>\n.\nQUIT"):
        assert part in made.content.body


def test_the_same_form_makes_the_same_content():
    assert [each.content for each in notifications()[1]] == [each.content for each in notifications()[1]]


def test_the_longest_form_fits():
    _, made = notifications(name="x" * NAME_CHARS_MAX, message="y" * CONTACT_MESSAGE_CHARS_MAX)
    assert len(made) == 2
