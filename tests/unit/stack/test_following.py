"""When a stack counts as up, and when as being in trouble."""

import pytest

from infra.stack.following import Follower, NotUpError


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def follower(clock):
    return Follower("mine", clock)


def stack(asked="mine", **processes):
    return {"asked": asked, "processes": processes}


def test_it_is_up_when_every_process_is_ready(follower):
    assert not follower.is_up(stack(kafka={"state": "running"}, sender={"state": "starting"}))
    assert follower.is_up(stack(kafka={"state": "running"}, sender={"state": "running"}))


def test_what_is_said_of_an_earlier_request_does_not_count(follower):
    assert not follower.is_up(stack("another", kafka={"state": "running"}))
    assert not follower.is_up(stack("another", kafka={"state": "failed", "note": "old trouble"}))


def test_a_keeper_that_does_not_answer_is_not_waited_for_for_ever(follower, clock):
    clock.now_s = 91.0
    with pytest.raises(NotUpError, match="does not answer"):
        follower.is_up(stack("another"))


def test_a_failed_process_ends_the_wait_with_its_reason(follower, tmp_path):
    log = tmp_path / "sender.log"
    log.write_text("old run\nnew run: no such relay\n")
    entry = {"state": "failed", "note": "it refused its configuration", "log": str(log), "log_start_bytes": 8}
    with pytest.raises(NotUpError, match="sender did not start: it refused its configuration") as trouble:
        follower.is_up(stack(sender=entry))
    assert trouble.value.log_lines() == "new run: no such relay"


def test_a_failed_step_ends_the_wait(follower):
    contents = stack(kafka={"state": "running"}) | {"steps": {"topics": {"state": "failed", "note": "no"}}}
    with pytest.raises(NotUpError, match="topics"):
        follower.is_up(contents)


def test_a_process_that_ends_again_and_again_is_trouble(follower):
    follower.is_up(stack(sender={"state": "restarting", "restarts": 40}))  # from before: no reason to give up
    follower.is_up(stack(sender={"state": "restarting", "restarts": 45}))
    with pytest.raises(NotUpError, match="for the 6th time"):
        follower.is_up(stack(sender={"state": "restarting", "restarts": 46, "note": "ended with code 3"}))


def test_one_that_starts_for_ever_is_trouble(follower, clock):
    follower.is_up(stack(kafka={"state": "starting"}))
    clock.now_s = 61.0
    with pytest.raises(NotUpError, match="kafka is not ready after 61 s"):
        follower.is_up(stack(kafka={"state": "starting"}))


def test_a_slow_download_that_goes_on_is_none(follower, clock):
    for jar in range(20):
        clock.now_s = jar * 100.0
        assert not follower.is_up(stack(kafka={"state": "preparing", "note": f"fetching: {jar} of 46"}))
