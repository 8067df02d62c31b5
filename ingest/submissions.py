"""Submissions: from parsed JSON and the idempotency key to what is to be accepted. Pure."""

from collections.abc import Sequence
from uuid import UUID

from ingest.accept import Submission
from ingest.contact import CONTACT_CLIENT, notifications_of
from schemas.errors import FieldError, InvalidRequestError
from schemas.identity import id_from_key, is_made_from_key, new_id
from schemas.limits import IDEMPOTENCY_KEY_CHARS_MAX
from schemas.messages import Notification
from schemas.results import now
from schemas.validation import read_contact, read_content, read_id

_RESERVED = "was made from a key; send that key as Idempotency-Key instead, or an id of your own"


def submission_of_notify(
    given: object, *, keys: Sequence[str], client: str, traceparent: str, otherwise: UUID | None = None
) -> Submission:
    """
    Return what a call of /api/notify/ wants accepted.

    Args:
        given: the parsed body.
        keys: the values of the Idempotency-Key headers.
        otherwise: the id if neither a key nor the body names one; None: a new one.
    Raises:
        InvalidRequestError: with every error found, in the headers too.
    """
    errors: list[FieldError] = []
    key = read_key(keys, errors)
    ids: list[UUID] = []
    if key is not None:
        ids.append(_id_of_key(key, client, errors))
    if isinstance(given, dict) and "id" in given:
        try:
            ids.append(read_id(given["id"]))
        except ValueError as error:
            errors.append(FieldError("/id", "invalid_uuid", str(error)))
        else:
            # With its key it is the client's own.
            if is_made_from_key(ids[-1]) and ids[-1] not in ids[:-1]:
                errors.append(FieldError("/id", "reserved_id", _RESERVED))
    if len(set(ids)) > 1:
        errors.append(FieldError("/id", "id_mismatch", "means another id than the header Idempotency-Key; send one"))
    try:
        content = read_content(given, accepts=frozenset({"id"}), at=now())
    except InvalidRequestError as invalid:
        raise InvalidRequestError("invalid_request", [*errors, *invalid.errors]) from None
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    notification = Notification(ids[0] if ids else otherwise or new_id(), content, traceparent, producer=client)
    return Submission(notifications=(notification,), client=client)


def submission_of_contact(
    given: object, *, keys: Sequence[str], recipients: Sequence[str], traceparent: str
) -> Submission:
    """
    Return what a call of /api/contact/ wants accepted: a key is always mapped, since a visitor owns no ids.

    Args and errors as for `submission_of_notify`.
    """
    errors: list[FieldError] = []
    key = read_key(keys, errors)
    try:
        form = read_contact(given)
    except InvalidRequestError as invalid:
        raise InvalidRequestError("invalid_request", [*errors, *invalid.errors]) from None
    if errors:
        raise InvalidRequestError("invalid_request", errors)
    first = new_id() if key is None else id_from_key(CONTACT_CLIENT, key)
    return Submission(
        notifications=notifications_of(form, first=first, recipients=recipients, traceparent=traceparent),
        client=None,
        contact=form,
    )


def read_key(keys: Sequence[str], errors: list[FieldError]) -> str | None:
    """Return the key that the values of the Idempotency-Key headers are; None: none, or *errors* says what is wrong."""
    if not keys:
        return None
    key = keys[0]
    if len(set(keys)) > 1 or not (1 <= len(key) <= IDEMPOTENCY_KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        errors.append(
            FieldError(
                "",
                "invalid_idempotency_key",
                f"the header Idempotency-Key must be one, of 1 to {IDEMPOTENCY_KEY_CHARS_MAX} printable ASCII "
                "characters",
            )
        )
        return None
    return key


def _id_of_key(key: str, client: str, errors: list[FieldError]) -> UUID:
    try:
        named = read_id(key)
    except ValueError:
        return id_from_key(client, key)
    if is_made_from_key(named):
        errors.append(FieldError("", "reserved_id", _RESERVED))
    return named
