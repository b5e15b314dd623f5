import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from fakes import second

from streamer.ingest.messages import Arrived, Counts, Ended, Report
from streamer.ingest.outlet import Outlet


def arrived(k: int, at_mono_s: float | None = None) -> Arrived:
    return Arrived(1, second(k, arrived_mono_s=time.monotonic() if at_mono_s is None else at_mono_s), Counts())


def drain(receiver: Connection, outlet: Outlet) -> list[Arrived]:
    """End the outlet; return the seconds that came out."""
    outlet.send(Ended(None))
    ender = threading.Thread(target=outlet.close)
    ender.start()
    received: list[Report] = []
    while not received or not isinstance(received[-1], Ended):
        received.append(receiver.recv())
    ender.join()
    receiver.close()
    return [report for report in received if isinstance(report, Arrived)]


def test_live_sheds_the_oldest_seconds_when_nobody_takes_them() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = Outlet(sender, backlog_s=3, stale_s=0.2, speed=10.0)
    for k in range(10):
        outlet.send(arrived(k))
        time.sleep(0.1)  # the first is on its way: it no longer fits into the pipe, and waits there
    seconds = drain(receiver, outlet)
    indices = [a.second.index for a in seconds]
    assert indices == sorted(indices)
    assert indices[-2:] == [8, 9]
    assert len(indices) < 7
    assert 10 - len(indices) == max(a.counts.stale_seconds for a in seconds)


def test_a_burst_is_not_stale() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = Outlet(sender, backlog_s=3, stale_s=0.2, speed=10.0)
    for burst in range(3):
        for k in range(6):
            outlet.send(arrived(6 * burst + k))
        time.sleep(0.3)  # half of what the burst lasts
        for _ in range(6):
            assert receiver.poll(1)
            assert receiver.recv().second.index >= 6 * burst
        time.sleep(0.3)
    assert drain(receiver, outlet) == []


def test_however_long_a_burst_is_memory_is_bounded() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = Outlet(sender, backlog_s=3, stale_s=1.0)
    for k in range(200):
        outlet.send(arrived(k))
    seconds = drain(receiver, outlet)
    assert len(seconds) <= 62
    assert seconds[-1].second.index == 199


def test_a_replay_waits_and_loses_nothing() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = Outlet(sender, backlog_s=2, stale_s=None)

    def feed() -> None:
        for k in range(20):
            outlet.send(arrived(k))

    feeder = threading.Thread(target=feed)
    feeder.start()
    got = []
    for _ in range(20):
        time.sleep(0.005)
        got.append(receiver.recv().second.index)
    feeder.join()
    assert got == list(range(20))
    assert drain(receiver, outlet) == []


def test_nobody_listening_is_an_error_for_whoever_sends() -> None:
    receiver, sender = Pipe(duplex=False)
    outlet = Outlet(sender, backlog_s=2, stale_s=None)
    receiver.close()
    outlet.send(arrived(0))
    time.sleep(0.2)
    with pytest.raises(BrokenPipeError):
        outlet.send(arrived(1))
    outlet.close()
