import random

from hypothesis import given
from hypothesis import strategies as st

from streamer.config import WatchConfig
from streamer.ingest.watchdog import Watchdog
from streamer.sources.base import SourceFault

CONFIG = WatchConfig(open_s=20, first_s=30, stall_s=10, first_backoff_s=0.5, longest_backoff_s=15, steady_s=30)
GONE = SourceFault("it broke off", "broke_off")


def watchdog(live: bool = True, retries: int | None = None) -> Watchdog:
    config = WatchConfig(retries=retries)
    return Watchdog(1, config, live=live, chance=random.Random(1))


def test_a_source_that_does_not_open_is_left_in_time() -> None:
    dog = watchdog()
    assert dog.opening(100.0).state == "opening"
    assert dog.stalled(119.9) is None
    fault = dog.stalled(120.0)
    assert fault is not None
    assert (fault.cause, str(fault)) == ("stalled", "nothing came within 20 s")


def test_the_first_second_may_take_longer_than_the_others() -> None:
    dog = watchdog()
    dog.opening(0.0)
    dog.opened(5.0, burst_s=0.0)
    assert dog.stalled(34.9) is None
    assert dog.stalled(35.0) is not None
    change = dog.progressed(34.0)
    assert change is not None
    assert change.state == "running"
    assert dog.progressed(35.0) is None
    assert dog.stalled(44.9) is None
    assert dog.stalled(45.0) is not None


def test_a_stream_of_bursts_is_given_a_burst_more() -> None:
    dog = watchdog()
    dog.opening(0.0)
    dog.opened(1.0, burst_s=6.0)
    dog.progressed(2.0)
    assert dog.stalled(17.9) is None
    assert dog.stalled(18.0) is not None


def test_whoever_listens_waits_for_a_sender_for_ever() -> None:
    dog = watchdog()
    dog.opening(0.0)
    assert dog.listening("rtmp://127.0.0.1:1935/live").reason == "waiting for a sender at rtmp://127.0.0.1:1935/live"
    assert dog.stalled(1e9) is None
    dog.opened(1e9, burst_s=0.0)
    assert dog.stalled(1e9 + 31) is not None


def test_a_url_that_never_opened_is_not_tried_again_unless_asked() -> None:
    dog = watchdog()
    dog.opening(0.0)
    assert dog.failed(1.0, GONE).state == "failed"
    patient = watchdog(retries=2)
    for n in range(1, 3):
        patient.opening(0.0)
        change = patient.failed(1.0, GONE)
        assert (change.state, change.failures, change.cause) == ("waiting", n, "broke_off")
    patient.opening(0.0)
    assert patient.failed(1.0, GONE).state == "failed"


def test_a_source_that_was_open_once_is_opened_again_for_ever_and_ever_more_slowly() -> None:
    dog, now, waits = watchdog(), 0.0, []
    dog.opening(now)
    dog.opened(now, 0.0)
    for _ in range(2000):
        assert dog.failed(now, GONE).state == "waiting"
        waits.append(dog.until_open_s(now))
        now += waits[-1]
        assert dog.until_open_s(now) < 1e-6
        dog.opening(now)
    assert all(0.25 <= wait <= 15 for wait in waits)
    assert min(waits[6:]) >= 7.5
    assert len({round(wait, 6) for wait in waits[6:]}) > 1900, "jitter keeps many streamers out of step"


def test_a_recording_is_never_opened_again() -> None:
    dog = watchdog(live=False, retries=9)
    dog.opening(0.0)
    dog.opened(0.0, 0.0)
    assert dog.failed(1.0, GONE).state == "failed"


def test_failures_are_forgotten_once_the_stream_is_steady() -> None:
    dog = watchdog(retries=3)
    dog.opening(0.0)
    dog.opened(0.0, 0.0)
    for _ in range(3):
        dog.failed(1.0, GONE)
        dog.opening(1.0)
    dog.opened(1.0, 0.0)
    for second in range(2, 40):
        dog.progressed(float(second))
    assert dog.failed(50.0, GONE).failures == 1


def test_a_stream_that_comes_and_goes_quickly_still_runs_out_of_retries() -> None:
    dog, now = watchdog(retries=3), 0.0
    states = []
    for _ in range(4):
        dog.opening(now)
        dog.opened(now, 0.0)
        dog.progressed(now + 1)
        now += 5
        states.append(dog.failed(now, GONE).state)
    assert states == ["waiting", "waiting", "waiting", "failed"]


@given(st.lists(st.tuples(st.sampled_from(["opened", "second", "silence", "broken", "end"]), st.floats(0.01, 60.0))))
def test_whatever_happens_nothing_is_waited_for_longer_than_promised(events: list[tuple[str, float]]) -> None:
    """The caller looks at the clock all the time; what is stalled for longer than any limit must have been said."""
    dog, now, last_sign = watchdog(), 0.0, 0.0
    dog.opening(now)
    dog.opened(now, 2.0)
    for event, passed in events:
        now += passed
        if now - last_sign >= 32.0:
            assert dog.stalled(now) is not None
        if event == "opened":
            dog.opened(now, 2.0)
        elif event == "second":
            dog.progressed(now)
        elif event == "broken" or dog.stalled(now) is not None:
            assert dog.failed(now, GONE).state == "waiting"
            assert 0 < dog.until_open_s(now) <= 15
            now += dog.until_open_s(now)
            dog.opening(now)
        else:
            continue
        last_sign = now
