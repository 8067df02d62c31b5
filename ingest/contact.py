"""The contact form: from what a visitor wrote to the notifications that tell the site's owners. Pure."""

from collections.abc import Sequence
from uuid import UUID

from schemas.identity import contact_id
from schemas.messages import ContactRequest, Content, Notification

CONTACT_CLIENT = "contact"

RECEIVED = "Mensaje de contacto recibido y encolado para notificación."


def notifications_of(
    form: ContactRequest, *, first: UUID, recipients: Sequence[str], traceparent: str
) -> tuple[Notification, ...]:
    """
    Return one notification for each of *recipients*.

    The visitor is only the Reply-To: nothing is ever sent to an address that somebody typed into a form.
    """
    return tuple(
        Notification(
            id=contact_id(first, place),
            content=Content(to=recipient, subject=_subject(form), body=_body(form), reply_to=form.email),
            traceparent=traceparent,
            producer=CONTACT_CLIENT,
        )
        for place, recipient in enumerate(recipients)
    )


def _subject(form: ContactRequest) -> str:
    return f"Mensaje de contacto de {form.name}"


def _body(form: ContactRequest) -> str:
    return (
        "Ha llegado un mensaje por el formulario de contacto.\n"
        "\n"
        f"Nombre: {form.name}\n"
        f"Correo: {form.email}\n"
        "\n"
        f"{form.message}\n"
        "\n"
        "-- \n"
        "Responda a este correo para contestar a quien lo escribió.\n"
    )
