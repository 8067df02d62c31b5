"""Parameters: reading what stands behind the question mark of an address: every error at once, and no echo. Pure."""

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeVar

from multidict import MultiMapping

from schemas.errors import FieldError, InvalidRequestError
from schemas.moments import read_moment
from schemas.validation import pointer

Value = TypeVar("Value")


class Parameters:
    """
    The parameters of one request. Pointers of errors are into the query, taken as an object: `/limit`.

    Args:
        given: names and values as decoded from the address.
        known: the names there are; any other is refused, so that none is ever silently without effect.
    """

    def __init__(self, given: MultiMapping[str], *, known: Collection[str]) -> None:
        self._given = given
        self._errors = [
            FieldError(pointer((name,)), "unknown_parameter", "is no parameter here; remove it or correct its name")
            for name in dict.fromkeys(given)
            if name not in known
        ]

    def names(self) -> frozenset[str]:
        """Return the names that were given."""
        return frozenset(self._given)

    def refuse(self, name: str, code: str, detail: str) -> None:
        """Note that *name* is wrong; `check` raises it."""
        self._errors.append(FieldError(pointer((name,)), code, detail))

    def one(self, name: str, code: str, read: Callable[[str], Value]) -> Value | None:
        """
        Return the only value of *name* as *read* understands it; None: it is not given, or wrong, which is noted.

        Args:
            code: of the error when *read* raises ValueError, whose sentence goes with it.
        """
        values = self._given.getall(name, [])
        if len(values) > 1:
            self.refuse(name, "repeated", "may be given once")
        elif values:
            return self._read(name, code, read, values[0])
        return None

    def wrong(self) -> frozenset[str]:
        """Return the pointers' names of what was found wrong so far."""
        return frozenset(error.pointer[1:] for error in self._errors)

    def several(self, name: str, code: str, read: Callable[[str], Value]) -> tuple[Value, ...]:
        """Return the values of *name*, given several times or separated by commas; wrong ones are noted."""
        texts = [text for value in self._given.getall(name, []) for text in value.split(",")]
        found = [self._read(name, code, read, text) for text in dict.fromkeys(texts)]
        return tuple(value for value in found if value is not None)

    def check(self) -> None:
        """
        End here if anything was wrong.

        Raises:
            InvalidRequestError: with every error found.
        """
        if self._errors:
            raise InvalidRequestError("invalid_request", list(dict.fromkeys(self._errors)))

    def _read(self, name: str, code: str, read: Callable[[str], Value], text: str) -> Value | None:
        try:
            return read(text)
        except ValueError as error:
            self.refuse(name, code, str(error))
            return None


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from *least* to *most*, both 0 or above, in digits and nothing else."""
    digits_max = len(str(most))

    def read(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= digits_max and least <= int(text) <= most:
            return int(text)
        raise ValueError(f"must be a whole number from {least} to {most}")

    return read


def moment(text: str) -> datetime:
    """Read a time with its offset."""
    try:
        return read_moment(text)
    except ValueError as error:
        # The commonest mistake in an address: + is a space there.
        raise ValueError(f"{error}; in an address + is written %2B") from None
