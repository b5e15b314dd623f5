"""What the outbox has taken is there until it is removed, in order, whatever happens to the process or the disk."""

import asyncio
import errno
import logging
import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.errors import DeliveryError
from streamer import outbox_file
from streamer.outbox import Mark, Outbox
from streamer.payload import SpotMessage

NOW = datetime(2026, 5, 31, 19, tzinfo=UTC)


def word(n: int, **changes: Any) -> SpotMessage:
    fields: dict[str, Any] = {"state": "confirmed", **changes}
    return SpotMessage.of(Spot(f"spot-{n}", "main", 1, 0, "Goal", float(n), 0.9, n + 8.0, **fields), NOW)


def early(n: int) -> SpotMessage:
    return word(n, state="provisional")


class Recorder:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.durable: list[bool] = []
        self.dropped = 0

    def on_pending(self, depth: int) -> None:
        self.pending.append(depth)

    def on_dropped(self, count: int) -> None:
        self.dropped += count

    def on_durable(self, ok: bool) -> None:
        self.durable.append(ok)


@asynccontextmanager
async def opened(path: Path | None, **options: Any) -> AsyncIterator[Outbox]:
    outbox = Outbox(path, **options)
    await outbox.open()
    try:
        yield outbox
    finally:
        await outbox.close()


async def numbers(outbox: Outbox, sequence: int = 0, limit: int = 1000) -> list[int]:
    return [delivery.sequence for delivery in await outbox.after(sequence, limit)]


async def ids(outbox: Outbox) -> list[str]:
    return [delivery.message.id for delivery in await outbox.after(0, 1000)]


async def let_the_disk(outbox: Outbox, pragma: str) -> None:
    """Set something of the file from within; it stands in for what the disk does."""
    await outbox._do(lambda: outbox._file._db.execute(f"PRAGMA {pragma}").fetchall())


# What is taken


@pytest.mark.parametrize("in_memory", [True, False])
async def test_words_come_back_in_order_and_equal_until_they_are_removed(tmp_path: Path, in_memory: bool) -> None:
    async with opened(None if in_memory else tmp_path / "outbox") as outbox:
        words = [word(n) for n in range(5)]
        await outbox.put(words[:2])
        await outbox.put(words[2:])
        found = await outbox.after(0, 10)
        assert [delivery.message for delivery in found] == words
        assert [delivery.sequence for delivery in found] == [1, 2, 3, 4, 5]
        assert await numbers(outbox, 2, 2) == [3, 4]
        await outbox.remove([1, 2, 4])
        await outbox.remove([4, 99])
        assert (await numbers(outbox), outbox.pending) == ([3, 5], 2)


async def test_another_run_finds_what_waits_and_counts_on(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(n) for n in range(3)])
        await outbox.remove([2, 3])
    async with opened(path) as outbox:
        assert await ids(outbox) == ["spot-0"]
        await outbox.remove([1])
    async with opened(path) as outbox:
        assert outbox.pending == 0
        await outbox.put([word(3)])
        assert await numbers(outbox) == [4]


async def test_puts_that_wait_together_keep_their_order(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox") as outbox:
        await asyncio.gather(*(outbox.put([word(n)]) for n in range(200)))
        assert await ids(outbox) == [f"spot-{n}" for n in range(200)]


async def test_a_caller_that_gives_up_leaves_nothing_half_done(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox") as outbox:
        tasks = [asyncio.create_task(outbox.put([word(n)])) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await outbox.put([word(50)])
        found = await ids(outbox)
        assert set(found) >= {f"spot-{n}" for n in (*range(1, 50, 2), 50)}
        assert outbox.pending == len(found)


async def test_provisional_words_stand_until_their_final_word_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([early(1), early(2), early(3)])
        await outbox.put([word(2), early(4)])
        assert (outbox.pending, outbox.standing) == (1, [])
    async with opened(path) as outbox:
        assert outbox.standing == [early(1), early(3), early(4)]
        await outbox.put([word(1, state="retracted"), word(3)])
        assert await ids(outbox) == ["spot-2", "spot-1", "spot-3"]
    async with opened(path) as outbox:
        assert outbox.standing == [early(4)]


async def test_the_newest_mark_and_what_is_remembered_are_there_in_the_next_run(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        assert (outbox.mark, outbox.remembered) == (None, {})
        await outbox.note(Mark(0, 5, None, NOW))
        await outbox.note(Mark(2, 7_000_000, 90, NOW))
        await outbox.remember("broker", "a")
        await outbox.remember("broker", "b")
        await outbox.remember("mark", "no clock")
    async with opened(path) as outbox:
        assert outbox.mark == Mark(2, 7_000_000, 90, NOW)
        assert outbox.remembered == {"broker": "b", "mark": "no clock"}


# The bound


async def test_when_too_many_wait_the_oldest_are_dropped_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    observer = Recorder()
    async with opened(tmp_path / "outbox", observer=observer, capacity=4) as outbox:
        for n in range(7):
            await outbox.put([word(n)])
        await outbox.put([word(n) for n in range(7, 9)])
        assert await ids(outbox) == ["spot-5", "spot-6", "spot-7", "spot-8"]
        assert (outbox.pending, outbox.dropped, observer.dropped) == (4, 5, 5)
        assert [r.getMessage() for r in caplog.records] == [
            f"{tmp_path}/outbox: 4 spots wait already; the oldest are dropped."
        ]
        await outbox.remove([6, 7, 8, 9])
        await outbox.put([word(n) for n in range(5)])
        assert len(caplog.records) == 2


async def test_the_observer_hears_every_depth(tmp_path: Path) -> None:
    observer = Recorder()
    async with opened(tmp_path / "outbox", observer=observer) as outbox:
        await outbox.put([word(0), word(1)])
        await outbox.put([early(2)])
        await outbox.remove([1])
        await outbox.remove([2])
    assert observer.pending == [2, 1, 0]
    async with opened(None, observer=observer) as outbox:
        pass
    assert observer.durable == [True]


# A disk that fails. `query_only` stands in for one that takes no write at all, `max_page_count` for one that is full:
# SQLite itself then fails as it does there, a DELETE included.

FULL = "the disk is full; spots are kept in memory until that is mended, and would be lost if the streamer ended now."


async def test_a_full_disk_is_said_and_spots_go_on_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    observer = Recorder()
    path = tmp_path / "outbox"
    async with opened(path, observer=observer) as outbox:
        await outbox.put([word(n) for n in range(20)])
        await let_the_disk(outbox, "max_page_count = 1")
        for n in range(20, 60):
            await outbox.put([word(n)])
        assert outbox.fault == f"{path}: {FULL}"
        assert await numbers(outbox) == list(range(1, 61))
        await outbox.remove(range(1, 31))
        assert (await numbers(outbox), outbox.pending) == (list(range(31, 61)), 30)
        assert observer.durable == [True, False]
        await let_the_disk(outbox, "max_page_count = 1000000")
        await outbox.note(Mark(0, 0, None, NOW))
        assert outbox.fault is None
        assert observer.durable == [True, False, True]
        await outbox.put([word(60)])
    async with opened(path) as outbox:
        assert await numbers(outbox) == list(range(31, 62))
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [f"{path}: {FULL}"]


async def test_what_waits_in_memory_has_the_same_bound(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox", capacity=10) as outbox:
        await outbox.put([word(n) for n in range(4)])
        await let_the_disk(outbox, "query_only = ON")
        for n in range(4, 30):
            await outbox.put([word(n)])
        assert (await numbers(outbox), outbox.dropped) == (list(range(21, 31)), 20)
        assert len(outbox._file._added) == 10


async def test_words_that_never_reached_the_disk_are_said_to_be_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(tmp_path / "outbox")
    await outbox.open()
    await let_the_disk(outbox, "query_only = ON")
    await outbox.put([word(0), word(1)])
    await outbox.close()
    await outbox.close()
    assert "2 spots could not be written and are lost." in caplog.messages[-1]


async def test_what_was_delivered_while_the_disk_failed_is_not_counted_anew(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(0)])
        await let_the_disk(outbox, "query_only = ON")
        await outbox.put([word(1), word(2)])
        await outbox.remove([1, 2, 3])
        await let_the_disk(outbox, "query_only = OFF")
    async with opened(path) as outbox:
        await outbox.put([word(3)])
        assert await numbers(outbox) == [4]


LIMITED = """
import asyncio, resource, sys
sys.path.insert(0, {tests!r})
from test_outbox import *

async def main():
    async with opened(Path(sys.argv[1])) as outbox:
        await outbox.put([word(0)])
        used = max(f.stat().st_size for f in Path(sys.argv[1]).parent.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (used, resource.RLIM_INFINITY))
        for n in range(1, 40):
            await outbox.put([word(n)])
        print(outbox.fault, await numbers(outbox) == list(range(1, 41)))
        await outbox.remove(range(1, 11))
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await outbox.put([word(40)])
        print(outbox.fault, await numbers(outbox) == list(range(11, 42)))

asyncio.run(main())
"""


def test_a_system_that_refuses_to_write_loses_nothing(tmp_path: Path, root: Path) -> None:
    """A limit on the size of files, lifted later, stands in for a full disk: the system itself refuses the writes."""
    path = tmp_path / "outbox"
    code = LIMITED.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert "spots are kept in memory" in first
    assert first.endswith(" True")
    assert second == "None True"


# A disk that fails at the start


@contextmanager
def a_full_disk() -> Iterator[None]:
    """The system refuses every write, as in the test above."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def a_file_that_cannot_be_opened(cause: Exception) -> Iterator[None]:
    """As on a read-only file system, where SQLite asks for more than is to be had."""
    opened = outbox_file._opened

    def fail(path: Path | None) -> sqlite3.Connection:
        if path is not None:
            raise cause
        return opened(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outbox_file, "_opened", fail)
        yield


READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


async def test_a_new_outbox_on_a_full_disk_begins_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, observer = tmp_path / "outbox", Recorder()
    with a_full_disk():
        outbox = Outbox(path, observer)
        await outbox.open()
        assert outbox.fault is not None
        assert outbox.fault.startswith(f"{path}: the disk fails; spots are kept in memory until that is mended")
        await outbox.put([word(n) for n in range(3)])
        first, *_ = await numbers(outbox)
        await outbox.remove([first])
        assert (await ids(outbox), outbox.pending) == (["spot-1", "spot-2"], 2)
    await outbox.put([word(3)])
    assert outbox.fault is None
    assert observer.durable == [False, True]
    await outbox.close()
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1
    async with opened(path) as outbox:
        assert await ids(outbox) == ["spot-1", "spot-2", "spot-3"]
        assert await numbers(outbox) == [first + 1, first + 2, first + 3]


async def test_an_outbox_on_a_full_disk_gives_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(0), word(1)])
    with a_full_disk():
        outbox = Outbox(path)
        await outbox.open()
        await outbox.put([word(2)])
        assert outbox.fault is not None
        assert await ids(outbox) == ["spot-0", "spot-1", "spot-2"]
        await outbox.remove([1])
    await outbox.close()
    async with opened(path) as outbox:
        assert await numbers(outbox) == [2, 3]


@pytest.mark.parametrize("broken_off", [False, True])
async def test_what_can_be_read_at_least_goes_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken_off: bool
) -> None:
    """A run that was broken off leaves its words in SQLite's log, beside the file."""
    path, copy = tmp_path / "outbox", tmp_path / "copy" / "outbox"
    copy.parent.mkdir()
    async with opened(path) as outbox:
        await outbox.put([word(0), word(1), early(2)])
        await outbox.note(Mark(3, 5, None, NOW))
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{copy}{end}")
    path = copy if broken_off else path
    with a_file_that_cannot_be_opened(READ_ONLY):
        outbox = Outbox(path)
        await outbox.open()
        assert outbox.fault is not None
        assert ": read-only file system; spots are kept" in outbox.fault
        assert (outbox.mark, outbox.standing) == (Mark(3, 5, None, NOW), [early(2)])
        await outbox.put([word(3)])
        assert (await numbers(outbox), outbox.pending) == ([1, 2, 3], 3)
        await outbox.remove([1])
    await outbox.put([word(4)])
    assert (await numbers(outbox), outbox.pending) == ([2, 3, 4], 3)
    assert outbox.fault is None
    await outbox.close()
    async with opened(path) as outbox:
        assert (await numbers(outbox), outbox.standing) == ([2, 3, 4], [early(2)])
    with a_file_that_cannot_be_opened(READ_ONLY):
        outbox = Outbox(path)
        await outbox.open()
        await outbox.close()
    assert "are lost" not in caplog.text


async def test_words_that_come_to_light_later_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(n) for n in range(3)])
    with a_file_that_cannot_be_opened(OSError(errno.EIO, "Input/output error")), monkeypatch.context() as patch:
        patch.setattr(outbox_file, "_only_read", lambda path: sqlite3.connect("/nowhere/at/all"))
        outbox = Outbox(path)
        await outbox.open()
        await outbox.put([word(3), word(4)])
        own = await numbers(outbox)
        assert await ids(outbox) == ["spot-3", "spot-4"]
        await outbox.remove(own[:1])
    await outbox.put([word(5)])
    assert outbox.pending == 5
    page = await outbox.after(own[-1], 2)
    assert [delivery.sequence for delivery in page] == [1, 2]
    assert await numbers(outbox, 2) == [3, own[1], own[1] + 1]
    await outbox.close()


async def test_what_does_not_pass_by_itself_is_still_an_error(tmp_path: Path) -> None:
    for cause in (PermissionError(errno.EACCES, "Permission denied"), NotADirectoryError(errno.ENOTDIR, "No folder")):
        with a_file_that_cannot_be_opened(cause), pytest.raises(DeliveryError, match=r"give another --state\.$"):
            await Outbox(tmp_path / "outbox").open()


async def test_a_disk_that_cannot_be_read_lets_nothing_overtake(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox", capacity=4) as outbox:
        await outbox.put([word(0), word(1)])
        await let_the_disk(outbox, "query_only = ON")
        await outbox.put([word(2)])
        file = outbox._file._db
        outbox._file._db = sqlite3.connect(":memory:", check_same_thread=False)  # without a table, it fails
        assert (await numbers(outbox), outbox.pending) == ([], 3)
        assert outbox.fault is not None
        await outbox.put([word(n) for n in range(3, 9)])
        assert len(outbox._file._added) == 4
        outbox._file._db.close()
        outbox._file._db = file
        await let_the_disk(outbox, "query_only = OFF")
        await outbox.put([])
        assert outbox.fault is None
        assert (await numbers(outbox), outbox.pending, outbox.dropped) == ([6, 7, 8, 9], 4, 5)


Action = tuple[str, Any]
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 4)),
        st.tuples(st.just("remove"), st.lists(st.integers(1, 30), max_size=6)),
        st.tuples(st.just("after"), st.tuples(st.integers(0, 30), st.integers(1, 9))),
        st.tuples(st.just("reopen"), st.none()),
        st.tuples(st.just("works"), st.booleans()),
    ),
    max_size=25,
)


@given(ACTIONS)
@example([("works", False), ("put", 4), ("remove", [1, 2]), ("works", True), ("put", 1), ("reopen", None)])
@example([("put", 4), ("works", False), ("remove", [1, 3]), ("put", 4), ("put", 4), ("reopen", None), ("put", 1)])
def test_it_is_a_list_whatever_is_done_and_whenever_the_disk_fails(actions: Sequence[Action]) -> None:
    with TemporaryDirectory() as folder:
        asyncio.run(compare_with_a_list(Path(folder) / "outbox", actions))


async def compare_with_a_list(path: Path, actions: Sequence[Action]) -> None:
    capacity = 8
    waiting: list[int] = []
    last, works = 0, True
    on_disk: tuple[list[int], int] = ([], 0)
    outbox = Outbox(path, capacity=capacity)
    await outbox.open()
    for action, value in actions:
        if action == "put":
            await outbox.put([word(n) for n in range(value)])
            waiting = [*waiting, *range(last + 1, last + value + 1)][-capacity:]
            last += value
        elif action == "remove":
            await outbox.remove(value)
            waiting = [n for n in waiting if n not in value]
        elif action == "after":
            sequence, limit = value
            assert await numbers(outbox, sequence, limit) == [n for n in waiting if n > sequence][:limit]
        elif action == "works":
            works = value
            await let_the_disk(outbox, f"query_only = {'OFF' if works else 'ON'}")
            await outbox.remove([])
        else:
            await outbox.close()
            (waiting, last), works = on_disk, True
            outbox = Outbox(path, capacity=capacity)
            await outbox.open()
        if works:
            on_disk = (waiting, last)
        assert await numbers(outbox) == waiting
        assert outbox.pending == len(waiting)
        assert (outbox.fault is None) == works
    await outbox.close()


# Processes that end, and processes that meet

PUTTING = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from test_outbox import *

async def main():
    async with opened(Path(sys.argv[1])) as outbox:
        for n in range(int(sys.argv[2]), 1_000_000):
            await outbox.put([word(n)])
            print(n, flush=True)

asyncio.run(main())
"""


def started(path: Path, first: int, root: Path) -> "subprocess.Popen[str]":
    code = PUTTING.format(tests=str(Path(__file__).parent))
    arguments = [sys.executable, "-c", code, str(path), str(first)]
    return subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, text=True)


async def test_a_killed_process_loses_no_word_that_it_had_put(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "outbox"
    count = 0
    for moment_s in (random.uniform(0.0, 0.1), random.uniform(0.1, 0.5)):
        process = started(path, count, root)
        assert process.stdout is not None
        put = [int(process.stdout.readline())]
        time.sleep(moment_s)
        process.kill()
        put += [int(line) for line in process.stdout]  # communicate() would not know of lines that were read ahead
        process.wait()
        process.stdout.close()
        async with opened(path) as outbox:
            found = await outbox.after(0, 1_000_000)
        assert put == list(range(count, count + len(put)))
        assert len(found) - count - len(put) in (0, 1)  # one may have been under way
        count = len(found)
        assert [delivery.message.id for delivery in found] == [f"spot-{n}" for n in range(count)]
        assert [delivery.sequence for delivery in found] == list(range(1, count + 1))


async def test_a_file_is_one_runs_at_a_time(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "outbox"
    sentence = f"^{path}: another run uses this outbox; give this one another --stream or --state.$"
    async with opened(path):
        with pytest.raises(DeliveryError, match=sentence):
            await Outbox(path).open()
    process = started(path, 0, root)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(DeliveryError, match=sentence):
        await Outbox(path).open()
    process.kill()
    process.communicate(timeout=30)
    async with opened(path) as outbox:
        assert outbox.pending


# Files that are something else


async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(n) for n in range(100)])
    whole = path.read_bytes()
    middle = len(whole) // 2
    damages = [
        bytes(len(whole)),
        whole[:16] + b"\xaa" * (len(whole) - 16),
        whole[:middle],
        whole[: middle - 4000] + random.Random(1).randbytes(8000) + whole[middle + 4000 :],
    ]
    for n, damaged in enumerate(damages):
        caplog.clear()
        path.write_bytes(damaged)
        async with opened(path) as outbox:
            assert outbox.pending == 0
            await outbox.put([word(n)])
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        aside = [p for p in tmp_path.iterdir() if p.name.startswith("outbox.damaged-") and p.name in caplog.text]
        assert aside[0].read_bytes() == damaged


async def test_after_a_damage_no_epoch_and_no_sequence_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(n) for n in range(5)])
        await outbox.note(Mark(7, 0, None, NOW))
    path.write_bytes(bytes(5000))
    began_utc = datetime.now(UTC)
    async with opened(path) as outbox:
        mark = outbox.mark
        assert mark is not None
        minutes = (mark.at_utc - datetime(2020, 1, 1, tzinfo=UTC)).total_seconds() // 60
        assert (mark.epoch, mark.media_us, mark.stream_us) == (minutes, 0, None)
        assert began_utc <= mark.at_utc <= datetime.now(UTC)
    async with opened(path) as outbox:  # also if nothing was said in between
        assert outbox.mark == mark
        await outbox.put([word(5), word(6)])
        first, second = await numbers(outbox)
    assert second == first + 1
    assert first > minutes * 60_000
    assert len(str(first)) == 12


async def test_a_file_that_never_was_an_outbox_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list, and more of it")
    with pytest.raises(DeliveryError, match=f"^{path}: this is not an outbox; give another --state.$"):
        await Outbox(path).open()
    assert path.read_text() == "shopping list, and more of it"


async def test_another_programs_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE spots (a)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(DeliveryError, match=f"^{path}: this is another program's database; give another --state.$"):
        await Outbox(path).open()
    assert path.read_bytes() == before


async def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await let_the_disk(outbox, "user_version = 7")
    with pytest.raises(DeliveryError, match=f"^{path}: a newer touchline wrote this .version 7.; use that, or another"):
        await Outbox(path).open()


async def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "outbox"
    sentence = r"the outbox cannot be opened here \(.*\); give another --state\.$"
    with pytest.raises(DeliveryError, match=f"^{path}: {sentence}"):
        await Outbox(path).open()
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeliveryError, match=f"/folder: {sentence}"):
        await Outbox(tmp_path / "folder").open()


async def test_a_word_of_an_unreadable_version_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox"
    async with opened(path) as outbox:
        await outbox.put([word(0), word(1)])
        await outbox._do(lambda: outbox._file._db.execute("UPDATE spots SET message = '{}' WHERE sequence = 1"))
        assert await ids(outbox) == ["spot-1"]
        assert (outbox.pending, outbox.dropped) == (1, 1)
    assert "cannot be read" in caplog.text


async def test_memory_stays_flat_however_many_wait(tmp_path: Path) -> None:
    async with opened(tmp_path / "outbox") as outbox:
        await outbox.put([word(n) for n in range(1000)])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(10):
            await outbox.put([word(n) for n in range(1000)])
        last = 0
        while page := await outbox.after(last, 100):
            last = page[-1].sequence
        assert outbox.pending == last == 11_000
        unit = 1024 if sys.platform == "darwin" else 1
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < 20_000
