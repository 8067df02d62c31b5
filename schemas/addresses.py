"""E-mail addresses: the one place that says which text is one address."""

import re
from enum import StrEnum
from functools import lru_cache

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

ADDRESS_CHARS_MAX = 254  # RFC 5321 4.5.3.1.3, as corrected by RFC 3696 erratum 1690

# Names such as .test and .local are no worse than others: a relay inside a company may well know them.
SPECIAL_USE_DOMAIN_NAMES.clear()

# Ordinary addresses, recognised without the library, which takes 40 microseconds for each. What this takes,
# the library takes unchanged (a test compares them on generated addresses); everything else goes to it.
_ORDINARY = re.compile(r"(?=.{3,254}\Z)(?=[^@]{1,64}@)[a-z0-9]+(?:[._+-][a-z0-9]+)*@(?:[a-z0-9]{1,63}\.)+[a-z]{2,24}\Z")


@lru_cache(maxsize=10_000)
def check_address(text: str) -> str:
    """
    Return the normal form of exactly one address (the domain in lower case and, where needed, IDNA).

    No display name, no comment, no quoted local part, no list. Deliverability is not looked at: the relay knows.
    Raises:
        ValueError: a sentence for people that does not repeat the input.
    Source: RFC 5321 section 4.1.2; RFC 6531 for addresses beyond ASCII.
    """
    if _ORDINARY.match(text):
        return text
    try:
        checked = validate_email(
            text, check_deliverability=False, globally_deliverable=False, strict=True, allow_smtputf8=True
        )
    except EmailNotValidError:
        # The library's sentence repeats parts of the input, which may be somebody's address.
        raise ValueError("not exactly one e-mail address such as name@example.org") from None
    return f"{checked.local_part}@{checked.ascii_domain or checked.domain}"


def mask_address(address: str) -> str:
    """Return *address* for logs and timelines: the first letter and the domain, as in "a***@example.org"."""
    local, _, domain = address.rpartition("@")
    return f"{local[:1]}***@{domain}" if local else "***"


# An apostrophe may stand before the @, as in o'brien@example.org.
_ADDRESS_IN_TEXT = re.compile(r"[^\s<>\"(),;:\[\]]+@[^\s<>\"'(),;:\[\]]+")


def without_addresses(text: str) -> str:
    """Return *text* with everything that looks like an address replaced: relays love to repeat the recipient."""
    return _ADDRESS_IN_TEXT.sub("<address>", text) if "@" in text else text


SIMULATOR_DOMAIN = "simulator.invalid"  # RFC 6761 6.4: .invalid belongs to nobody, and never will


class Scenario(StrEnum):
    """What the simulator can be asked for, as in sim+retry-ok@simulator.invalid."""

    OK = "ok"  # sent
    RETRY_OK = "retry-ok"  # refused for now at the first attempt, sent at the second
    TEMPFAIL = "tempfail"  # refused for now at every attempt of the burst: failed
    PERMFAIL = "permfail"  # refused for good: bounced
    SLOW = "slow"  # sent, after a few seconds
    IN_DOUBT = "in-doubt"  # handed over, and no answer was seen
    SUPPRESSED = "suppressed"  # a recipient that is not written to


SIMULATED: dict[str, Scenario] = {f"sim+{scenario}@{SIMULATOR_DOMAIN}": scenario for scenario in Scenario}


def check_recipient(address: str) -> str:
    """
    Return *address* if it may be a recipient: not one of the simulator's that the simulator does not know.

    Raises:
        ValueError: a sentence for people that does not repeat the input.
    """
    if is_simulated(address) and address.lower() not in SIMULATED:
        raise ValueError(f"at {SIMULATOR_DOMAIN} there are only {', '.join(SIMULATED)}")
    return address


def is_simulated(address: str) -> bool:
    """Whether *address* belongs to the simulator: it goes the whole way, and never to a relay."""
    return address.lower().endswith("@" + SIMULATOR_DOMAIN)
