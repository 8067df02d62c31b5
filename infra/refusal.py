"""A configuration error that comes up where nobody could catch it: in a client's own task, or in another thread."""

from collections.abc import Callable

from schemas.errors import ConfigurationError

_refusals: list[ConfigurationError] = []
_ends: list[Callable[[], None]] = []


def refuse(error: ConfigurationError) -> None:
    """Have the service end as if it were told to, and then say *error*. Returns at once; the first one counts."""
    _refusals.append(error)
    for end in _ends:
        end()


def refusal() -> ConfigurationError | None:
    """Return what was refused; None: nothing."""
    return _refusals[0] if _refusals else None


def on_refusal(end: Callable[[], None]) -> None:
    """Have *end* called when something is refused, in whatever thread that is."""
    _ends.append(end)
