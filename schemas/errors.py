"""
The three families of errors, and what is wrong with a request.

Every exception that decides what happens to a notification belongs to exactly one family:
TransientError (try again), PermanentError (never try again), ConfigurationError (stop, a person must act).
"""

from dataclasses import dataclass


class TransientError(Exception):
    """It may work the next time. The caller tries again after a wait, and loses nothing meanwhile."""


class PermanentError(Exception):
    """It will never work. The caller records the outcome and goes on."""


class ConfigurationError(Exception):
    """
    The installation is wrong, not the message: a missing topic, bad credentials, a certificate.

    The caller stops and says so. No notification pays for it with an attempt.
    """


@dataclass(frozen=True, slots=True)
class FieldError:
    """
    One thing that is wrong with one field.

    pointer is a JSON Pointer (RFC 6901) into the request, "" for the whole of it. code is stable and for
    programs, detail is a sentence for people. Neither ever repeats the input.
    """

    pointer: str
    code: str
    detail: str


# More of them help nobody, and a body of a megabyte can hold a hundred thousand names that are no fields.
ERRORS_TOLD_MAX = 100


class InvalidRequestError(PermanentError):
    """
    A request that cannot become a notification. Holds every error found, at least one, at most ERRORS_TOLD_MAX.

    code names the whole: "invalid_json" when the bytes are not JSON that we take, "invalid_request"
    when they are, but fields are wrong.
    """

    def __init__(self, code: str, errors: list[FieldError]) -> None:
        assert errors, "an invalid request has at least one error"
        errors = errors[:ERRORS_TOLD_MAX]
        super().__init__(f"{code}: " + "; ".join(f"{error.pointer or '/'} {error.code}" for error in errors))
        self.code = code
        self.errors = errors
