"""`relevo show`: a line for each step, and nothing that could speak to the terminal."""

from infra.cli.show import lines_of

STATUS = {
    "id": "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e",
    "status": "sent",
    "door": "http",
    "producer": "billing",
    "scheduled_for": None,
    "timeline": [
        {"at": "2026-11-24T12:00:00.000Z", "step": "accepted"},
        {"at": "2026-11-24T12:00:00.003Z", "step": "published", "partition": 2, "offset": 912, "index": 7},
        {"at": "2026-11-24T12:00:00.005Z", "step": "deduplicated", "partition": 4, "offset": 377},
        {
            "at": "2026-11-24T12:00:00.040Z",
            "step": "sent",
            "attempt": 1,
            "worker": "sender-1",
            "duration_ms": 21,
            "reason": {"class": "accepted", "code": "smtp_250"},
            "smtp": "250 2.0.0 \x1b[31mok",
        },
    ],
}


def test_each_step_is_a_line():
    assert lines_of(STATUS) == [
        "0191e7a0-5c3f-7cc2-9e0a-3d6f1d2b4c5e is sent: by http, producer billing",
        "  2026-11-24T12:00:00.000Z  accepted",
        "  2026-11-24T12:00:00.003Z  published     p2@912 [7]",
        "  2026-11-24T12:00:00.005Z  deduplicated  p4@377",
        "  2026-11-24T12:00:00.040Z  sent          attempt 1  sender-1  21 ms  smtp_250  250 2.0.0 ?[31mok",
    ]


def test_what_was_called_off_has_no_attempt_of_its_own():
    step = {"at": "2026-11-24T12:00:00.000Z", "step": "cancelled", "attempt": 0, "worker": None, "duration_ms": None}
    assert lines_of(STATUS | {"timeline": [step]})[1] == "  2026-11-24T12:00:00.000Z  cancelled     attempt 0"
