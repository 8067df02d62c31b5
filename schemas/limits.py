"""Every bound that is part of the contract, with the relations between them asserted."""

SUBJECT_CHARS_MAX = 998  # RFC 5322 2.1.1: a header line; longer ones are folded, but no reader shows them
BODY_CHARS_MAX = 65_536
NAME_CHARS_MAX = 200
CONTACT_MESSAGE_CHARS_MAX = 10_000

METADATA_ENTRIES_MAX = 20
METADATA_NAME_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 256

PRODUCER_CHARS_MAX = 128

REQUESTS_PER_RECORD_MAX = 500
HTTP_BODY_BYTES_MAX = 64 * 1024
IDEMPOTENCY_KEY_CHARS_MAX = 255

SMTP_TEXT_CHARS_MAX = 512  # of a relay's reply, which is hostile input, in the ledger and in results

assert CONTACT_MESSAGE_CHARS_MAX * 4 < HTTP_BODY_BYTES_MAX, "the longest contact message must fit in a request"
