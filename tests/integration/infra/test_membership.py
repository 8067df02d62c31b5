"""Two processes under one name: one of them ends and says why, and the other goes on."""

import time

import pytest

from tests.processes import eventually
from tests.relevo import Relevo


@pytest.mark.parametrize(("module", "name"), [("sender", "relevo-sender-twin"), ("pipeline", "relevo.pipeline.twin")])
def test_of_two_under_one_name_one_ends_and_names_the_setting(servers, mailbox, tmp_path, module, name):
    settings = {"RELEVO_INSTANCE": "twin"}
    first, second = (Relevo(servers, mailbox, tmp_path).service(module, each, **settings) for each in ("one", "two"))
    first.start()
    second.start()
    try:
        assert first.process.wait(60) == 78
        assert first.events("instance_name_taken")
        (told,) = first.events("configuration_refused")
        assert told["error"].startswith("RELEVO_INSTANCE: another process joins group relevo.")
        assert f"relevo {module}: RELEVO_INSTANCE: " in first.tail()
        assert name in told["error"]
        assert "Traceback" not in first.tail()
        # The other one has what it needs, and keeps it.
        lines = len(second.events("instance_name_taken"))
        eventually(lambda: second.readiness()[0] == 200, 15)
        assert second.stop() == 0
        assert len(second.events("instance_name_taken")) == lines
    finally:
        first.kill()
        second.kill()


def test_one_that_was_frozen_beyond_its_session_takes_its_place_back(servers, mailbox, tmp_path):
    sender = Relevo(servers, mailbox, tmp_path).service("sender", "frozen")
    sender.start()
    try:
        sender.pause()
        time.sleep(14)  # the session is 10 s
        sender.resume()
        eventually(lambda: len(sender.events("partitions_assigned")) > 1 and sender.readiness()[0] == 200, 30)
        assert not sender.events("instance_name_taken")
        assert sender.stop() == 0
    finally:
        sender.kill()
