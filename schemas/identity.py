"""
Identities: which id a request has, and when two requests are the same.

Three identities that are never mixed: the notification id (public, a UUID, one key space for both doors),
the idempotency key (a client's own text, mapped into that space), the event id (of one result record).
"""

import hashlib
import hmac
import os
import time
from uuid import UUID, SafeUUID, uuid5

import orjson

from schemas.messages import Content

_EVENTS = UUID("7b0d5c2e-8f3a-5d7e-9d54-8a3c1b1f6e02")
_EVENTS_BYTES = _EVENTS.bytes

# "rele": the first four bytes of every id that is made from a key. By them the HTTP door knows such an id, and takes it
# from nobody: who could name the id of another client's key could use it first, or find out whether it is in use.
_MADE = 0x72656C65

# A UUID's bits without those that say its version and variant.
_BARE = (2**128 - 1) & ~(0xF << 76) & ~(0x3 << 62)

_TAILS_AT_ONCE = 256
_tails: list[int] = []

FINGERPRINT_BYTES = 16


def new_id() -> UUID:
    """
    Return a UUIDv7: 48 bits of Unix milliseconds, then random bits (RFC 9562 section 5.7).

    Ids that rise with time keep the primary key's index flat: its pages fill in order.
    """
    value = (time.time_ns() // 1_000_000) << 80 | _random_tail()
    return uuid_of(value & _BARE | 0x7 << 76 | 0x2 << 62)


def uuid_of(value: int) -> UUID:
    """Return the UUID of these 128 bits. The constructor takes several times as long, to look at what it was given."""
    made = object.__new__(UUID)
    object.__setattr__(made, "int", value)
    object.__setattr__(made, "is_safe", SafeUUID.unknown)
    return made


def _random_tail() -> int:
    # From the system, for many ids at once: asking it takes longer than everything else about an id. Each is taken by
    # one thread only, since pop() is one step.
    try:
        return _tails.pop()
    except IndexError:
        noise = os.urandom(10 * _TAILS_AT_ONCE)
        fresh = [int.from_bytes(noise[place : place + 10]) for place in range(0, len(noise), 10)]
        taken = fresh.pop()
        _tails.extend(fresh)
        return taken


def id_from_key(client: str, key: str) -> UUID:
    """
    Return the id that *key* means for *client*; the same text of another client is another id.

    A service's key that is a UUID never comes here: it is the id itself.
    """
    return _made(b"key", f"{client}\n{key}")


def id_in_batch(client: str, key: str, place: int) -> UUID:
    """
    Return the id of the item at *place* (from 0) of the batch that *key* means for *client*.

    A space of its own: a key of a batch, UUID or not, has nothing to do with the same key of a lone notification.
    """
    return _made(b"batch", f"{client}\n{place}\n{key}")


def contact_id(first: UUID, place: int) -> UUID:
    """Return the id of a contact message's notification to the recipient at *place*; place 0 has *first* itself."""
    return first if place == 0 else _made(b"contact", f"{first}:{place}")


def replay_id(order: UUID, original: UUID) -> UUID:
    """Return the id of the notification that *order* makes of *original*: the same one, however often it is made."""
    return _made(b"replay", f"{order}:{original}")


def is_made_from_key(notification_id: UUID) -> bool:
    """Tell whether one of the functions above may have made it: all of theirs, and one in 2**32 of other UUIDv8."""
    return notification_id.int >> 96 == _MADE and notification_id.version == 8


def _made(purpose: bytes, text: str) -> UUID:
    # A UUIDv8 (RFC 9562 section 5.8): the mark, then 90 bits of a hash that is another one for each purpose.
    tail = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=12, person=purpose).digest())
    return uuid_of((_MADE << 96 | tail) & _BARE | 0x8 << 76 | 0x2 << 62)


def result_event_id(notification_id: UUID, seq: int) -> UUID:
    """Return the event id of change number *seq* of one notification: the same however often it is published."""
    digest = hashlib.sha1(_EVENTS_BYTES + f"{notification_id}:{seq}".encode(), usedforsecurity=False).digest()
    return uuid_of(int.from_bytes(digest[:16]) & _BARE | 0x5 << 76 | 0x2 << 62)


def result_event_text(notification_id: str, seq: int) -> str:
    """Return `result_event_id` as text, of an id as text: where there are many of them."""
    digits = hashlib.sha1(_EVENTS_BYTES + f"{notification_id}:{seq}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def rejection_event_id(coordinates: str) -> UUID:
    """Return the event id of a rejection, from the coordinates of the rejected item (`Source.coordinates`)."""
    return uuid5(_EVENTS, f"rejected:{coordinates}")


def fingerprint(content: Content) -> bytes:
    """
    Return 16 bytes that are equal for equal content and differ otherwise.

    What counts is what would be sent or reported: a second request with the same id and the same fingerprint is
    a repeat, with another one it is a conflict. The id, the trace and the door do not count.
    """
    text = orjson.dumps(
        [
            *(content.to, content.subject, content.body, content.html, content.reply_to),
            *(content.metadata, content.channel),
            # A field that came later counts only where it is used: fingerprints that were stored before stay right.
            *(() if content.on_doubt == "hold" else (content.on_doubt,)),
            *(() if content.scheduled_for is None else ({"scheduled_for": content.scheduled_for},)),
            *(() if content.expires_at is None else ({"expires_at": content.expires_at},)),
        ],
        option=orjson.OPT_SORT_KEYS,
    )
    return hashlib.blake2b(text, digest_size=FINGERPRINT_BYTES).digest()


def recipient_hash(address: str, key: bytes) -> str | None:
    """
    Return a keyed hash of *address* for results: the same recipient can be counted, but not be named.

    None when no key is configured: a hash without one is undone by trying addresses.
    """
    return hmac.digest(key, address.lower().encode(), "sha256").hex()[:32] if key else None
