"""Every bound that is part of the contract, with the relations between them asserted."""

SUBJECT_CHARS_MAX = 998  # RFC 5322 2.1.1: a header line; longer ones are folded, but no reader shows them
BODY_CHARS_MAX = 65_536
NAME_CHARS_MAX = 200
CONTACT_MESSAGE_CHARS_MAX = 10_000

METADATA_ENTRIES_MAX = 20
METADATA_NAME_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 256

PRODUCER_CHARS_MAX = 128

SCHEDULE_DAYS_MAX = 365  # how far ahead a notification may be scheduled

REQUESTS_PER_RECORD_MAX = 500
HTTP_BODY_BYTES_MAX = 64 * 1024
IDEMPOTENCY_KEY_CHARS_MAX = 255

BATCH_ITEMS_MAX = 100
BATCH_BODY_BYTES_MAX = 1024 * 1024  # a hundred texts of ten thousand characters

REPLAY_IDS_MAX = 1_000
REPLAY_RATE_MAX = 1_000  # notifications a second, of one order
REPLAY_REASON_CHARS_MAX = 500
REPLAY_NAME_CHARS_MAX = 128

SMTP_TEXT_CHARS_MAX = 512  # of a relay's reply, which is hostile input, in the ledger and in results

assert REPLAY_IDS_MAX * 42 < HTTP_BODY_BYTES_MAX, "the longest list of ids must fit in a request"
assert CONTACT_MESSAGE_CHARS_MAX * 4 < HTTP_BODY_BYTES_MAX, "the longest contact message must fit in a request"
