import csv
import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from itertools import pairwise
from pathlib import Path

import opentimelineio as otio  # type: ignore[import-untyped]
import pytest
import webvtt
from fakes import fake_bundle, second
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.errors import DataError, UsageError
from engines.spotter import Spotter
from streamer.files.edl import edl_text, timebase_of
from streamer.files.opening import out_file
from streamer.files.results import results_text, write_results
from streamer.files.table import COLUMNS, row
from streamer.files.vtt import LONGEST_MS, vtt_text
from streamer.files.writing import SYNC_S, one_line
from streamer.payload import spot_from_json, spot_to_json
from streamer.sources.base import StreamInfo
from training.data.results import read_predictions

SAID = datetime(2025, 5, 31, 19, tzinfo=UTC)
INFO = StreamInfo("mpegts", "h264", "aac", 1280, 720, 25.0, None, True)
ENDINGS = ("json", "jsonl", "csv", "vtt", "edl")
ODD = (
    "Yellow->red card",
    'a "quoted" label, with commas',
    "-->",
    "1 - first\nsecond\r\nthird",
    "|C:x |M:y",
    "* LOC: 00:00:00:00 RED x",
    "<b>&amp;</b>",
    "\x1b[31m\0\u2028",
    " ",
)
RATES = (23.976, 24.0, 25.0, 29.97, 30.0, 47.952, 48.0, 50.0, 59.94, 60.0, None, 12.5, 120.0)

labels = st.sampled_from(ODD) | st.text(min_size=1)
times_s = st.integers(0, 2 * 3600 * 1000).map(lambda ms: ms / 1000) | st.floats(0, 80_000)
spots_of_a_half = st.lists(
    st.builds(
        lambda label, at, confidence: Spot(f"{at}", "main", 1, 0, label, at, confidence, at + 5.0),
        labels,
        times_s,
        st.floats(0, 1),
    ),
    max_size=12,
)


def some_spots() -> list[Spot]:
    spotter = Spotter(fake_bundle(), "s", half=2)
    return spotter.push(second(0, 250)) + spotter.flush()


def a_spot(at: float = 12.5, label: str = "Goal", half: int = 1, confidence: float = 0.91) -> Spot:
    return Spot(f"{half}-{at}", "main", half, 0, label, at, confidence, at + 7.5)


def written(path: Path, words: Sequence[Spot], infos: Sequence[StreamInfo] = (INFO,)) -> None:
    file = out_file(path, "main")
    for half, info in enumerate(infos, 1):
        file.begin(info, half)
        for word in words:
            if word.half == half:
                file.say(word, SAID)
    file.close()


def times_in(path: Path) -> list[float]:
    """When the spots of a file are, in seconds, as a reader of its format finds them."""
    if path.suffix == ".json":
        return [int(item["position"]) / 1000 for item in json.loads(path.read_text())["predictions"]]
    if path.suffix == ".jsonl":
        return [spot_from_json(line)[0].media_time for line in path.read_bytes().splitlines()]
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [float(line["media_time"]) for line in csv.DictReader(file)]
    if path.suffix == ".vtt":
        return [cue.start_in_seconds + cue.start_time.milliseconds / 1000 for cue in webvtt.read(str(path)).captions]
    timeline = otio.adapters.read_from_file(str(path), rate=25)
    return [m.marked_range.start_time.to_seconds() for clip in timeline.find_clips() for m in clip.markers]


# All formats


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_confirmed_spot_is_found_in_every_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"match.{ending}"
    written(path, [a_spot(12.52), a_spot(61.0, "Foul")])
    assert times_in(path) == [12.52, 61.0]
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("label", ODD)
def test_no_label_breaks_a_format(tmp_path: Path, ending: str, label: str) -> None:
    path = tmp_path / f"match.{ending}"
    written(path, [a_spot(12.52, label), a_spot(61.0, "Foul")])
    assert times_in(path) == [12.52, 61.0]


@pytest.mark.parametrize("ending", ["json", "vtt", "edl"])
def test_what_was_not_confirmed_is_only_in_the_formats_of_every_word(tmp_path: Path, ending: str) -> None:
    words = [replace(a_spot(), state="provisional"), replace(a_spot(), state="retracted", revision=2)]
    for name in (f"match.{ending}", "match.jsonl", "match.csv"):
        written(tmp_path / name, words)
    assert times_in(tmp_path / f"match.{ending}") == []
    assert times_in(tmp_path / "match.jsonl") == times_in(tmp_path / "match.csv") == [12.5, 12.5]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_begins_the_file_anew_and_one_that_sees_nothing_leaves_the_old_one(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"match.{ending}"
    path.write_text("old")
    out_file(path, "main").close()
    assert path.read_text() == "old"
    written(path, [])
    assert times_in(path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_in_no_folder_is_one_sentence(tmp_path: Path, ending: str) -> None:
    file = out_file(tmp_path / "absent" / f"match.{ending}", "main")
    with pytest.raises(DataError, match="cannot be written"):
        file.begin(INFO, 1)
    file.close()
    assert "touchline-file" not in {thread.name for thread in threading.enumerate()}


def test_an_ending_without_a_format_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.json, \.jsonl, \.csv, \.vtt or \.edl"):
        out_file(tmp_path / "match.txt", "main")
    out_file(tmp_path / "MATCH.EDL", "main").close()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_folder_that_goes_away_is_said_with_the_next_words(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = out_file(folder / f"match.{ending}", "main")
    file.begin(INFO, 1)
    file.say(a_spot(), SAID)
    time.sleep(0.1)
    folder.rename(tmp_path / "elsewhere")
    fault = ""
    for at in range(200):
        try:
            file.say(a_spot(float(at)), SAID)
        except DataError as error:
            fault = str(error)
            break
        time.sleep(0.02)
    assert re.search("cannot be written|is gone", fault)
    with pytest.raises(DataError):
        file.close()


WRITER = """
import resource, sys, time
from datetime import UTC, datetime
from pathlib import Path
from engines.decider import Spot
from engines.errors import DataError
from streamer.files.opening import out_file
from streamer.sources.base import StreamInfo

def spot(n):
    return Spot(str(n), "main", 1, 0, "Goal", n * 1.0, 0.5, n + 5.0)

folder, endings = Path(sys.argv[1]), sys.argv[2].split()
files = [out_file(folder / f"match.{ending}", "main") for ending in endings]
for file in files:
    file.begin(StreamInfo("mpegts", "h264", None, 1280, 720, 25.0, None, True), 1)
"""


def test_a_killed_run_leaves_every_file_readable_with_what_was_said(tmp_path: Path) -> None:
    script = WRITER + (
        "n = 0\nwhile True:\n"
        "    for file in files:\n        file.say(spot(n), datetime.now(UTC))\n"
        "    n += 1\n    print(n, time.monotonic(), flush=True)\n    time.sleep(0.02)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), " ".join(ENDINGS)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(3)
    killed = time.monotonic()
    process.send_signal(signal.SIGKILL)
    said = [line.split() for line in process.stdout.read().splitlines() if line.count(" ") == 1]
    process.stdout.close()
    process.wait()
    long_said = max(int(n) for n, at in said if float(at) < killed - 2)
    assert long_said > 5
    for ending in ENDINGS:
        assert len(times_in(tmp_path / f"match.{ending}")) >= (
            int(said[-1][0]) if ending in ("jsonl", "csv") else long_said
        )


def test_a_full_disk_is_said_and_leaves_whole_lines_and_the_last_whole_file(tmp_path: Path) -> None:
    script = WRITER + (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))\n"
        "for file in files:\n"
        "    said = 0\n"
        "    try:\n"
        "        for n in range(200):\n            said += 1\n            file.say(spot(n), datetime.now(UTC))\n"
        "        file.close()\n"
        "    except DataError as error:\n        print(error)\n    print(said)\n"
        "print('full', flush=True)\n"
        "sys.stdin.readline()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "for file in files:\n    file.close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), " ".join(ENDINGS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines = []
    while (line := process.stdout.readline().strip()) != "full":
        assert line or process.poll() is None
        lines.append(line)
    counts = [int(count) for count in lines[1::2]]
    assert all(f"match.{e}: the spots cannot be written" in line for e, line in zip(ENDINGS, lines[::2], strict=True))
    assert all(os.strerror(errno.EFBIG) in line for line in lines[::2])
    for ending, count in zip(ENDINGS, counts, strict=True):
        kept = times_in(tmp_path / f"match.{ending}")
        assert len(kept) == count - 1 if ending in ("jsonl", "csv") else not kept
    process.communicate("\n", timeout=30)
    assert [len(times_in(tmp_path / f"match.{ending}")) for ending in ENDINGS] == counts  # when there is room again


def test_a_fast_replay_is_not_slowed_by_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("streamer.files.writing.os.fsync", synced.append)
    started = time.monotonic()
    written(tmp_path / "match.jsonl", [a_spot(float(at)) for at in range(2000)])
    assert len(synced) <= (time.monotonic() - started) / SYNC_S + 2
    assert synced


# JSON


def test_results_are_in_soccernets_format(tmp_path: Path) -> None:
    path = tmp_path / "results_spotting.json"
    write_results(path, some_spots(), "match")
    content = json.loads(path.read_text())
    assert content["UrlLocal"] == "match"
    assert content["predictions"][0] == {
        "gameTime": "2 - 00:00",
        "label": "Foul",
        "position": "500",
        "half": "2",
        "confidence": "0.980392",
    }


@pytest.mark.parametrize("name", [".", "absent/results.json"])
def test_a_path_that_is_no_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_results(Path(name) if name == "." else tmp_path / name, some_spots(), "match")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results_spotting.json"
    path.write_text("old")
    (tmp_path / "results_spotting.json.part").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_results(path, some_spots(), "match")
    assert path.read_text() == "old"


def test_results_hold_both_halves_in_order(tmp_path: Path) -> None:
    path = tmp_path / "match.json"
    words = [a_spot(90.0), a_spot(3.0), a_spot(1.0, half=2)]
    written(path, words, (INFO, INFO))
    assert [item["gameTime"] for item in json.loads(path.read_text())["predictions"]] == [
        "1 - 00:03",
        "1 - 01:30",
        "2 - 00:01",
    ]


@given(spots_of_a_half)
def test_the_metric_reads_the_results(tmp_path_factory: pytest.TempPathFactory, spots: list[Spot]) -> None:
    path = tmp_path_factory.getbasetemp() / "results_spotting.json"
    path.write_text(results_text(spots, "main"), encoding="utf-8")
    index = sorted({spot.label for spot in spots})
    found, unknown = read_predictions(path, index)
    assert not unknown
    ordered = sorted(spots, key=lambda s: (s.media_time, s.label))
    assert [(index[label], at) for label, at in zip(found[1].labels_N, found[1].positions_ms_N, strict=True)] == [
        (spot.label, round(spot.media_time * 1000)) for spot in ordered
    ]


# Lines


def test_every_word_is_in_the_file_as_soon_as_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    file, words = out_file(path, "main"), [replace(some_spots()[0], state="provisional"), *some_spots()]
    file.begin(INFO, 1)
    for count, word in enumerate(words, 1):
        file.say(word, SAID)
        assert [spot_from_json(line)[0] for line in path.read_text().splitlines()] == words[:count]
    file.begin(INFO, 2)  # goes on
    file.say(words[0], SAID)
    file.close()
    assert len(path.read_text().splitlines()) == len(words) + 1


@given(spots_of_a_half)
def test_a_row_is_the_json_of_the_word_with_a_column_each(spots: list[Spot]) -> None:
    latency = {"grid": 0.5, "look_ahead": 2.0, "hold": 1.0}
    words = [replace(s, latency=latency, flags=("no-audio", "forced"), pts=7, utc=SAID, clock="rtcp") for s in spots]
    text = ",".join(COLUMNS) + "\r\n" + "".join(row(word, SAID) for word in words)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    for word, cells in zip(words, rows, strict=True):
        said = json.loads(spot_to_json(word, SAID))
        for name in ("id", "state", "stream", "label", "utc", "clock", "said_utc", "event_type"):
            assert cells[name] == said[name]
        for name in ("revision", "half", "epoch", "media_time", "pts", "confidence", "emitted_at"):
            assert float(cells[name]) == said[name]
        assert {name: float(cells[f"latency.{name}"]) for name in latency} == latency
        assert cells["flags"].split(" ") == ["no-audio", "forced"]
        assert cells["bundle.name"] == cells["latency.compute"] == ""


# Chapters


@given(spots_of_a_half)
def test_chapters_are_where_the_spots_are_and_do_not_overlap(spots: list[Spot]) -> None:
    cues = webvtt.from_string(vtt_text(spots, "main")).captions
    ordered = sorted(spots, key=lambda s: (s.media_time, s.label))
    starts_ms = [c.start_in_seconds * 1000 + c.start_time.milliseconds for c in cues]
    ends_ms = [c.end_in_seconds * 1000 + c.end_time.milliseconds for c in cues]
    assert starts_ms == [round(spot.media_time * 1000) for spot in ordered]
    assert [unescape(cue.raw_text) for cue in cues] == [f"{one_line(s.label)} {s.confidence:.2f}" for s in ordered]
    for start, end, following in zip(starts_ms, ends_ms, [*starts_ms[1:], None], strict=False):
        assert start < end <= start + LONGEST_MS
        assert following is None or following == start or end <= following


@pytest.mark.parametrize("ending", ["vtt", "edl"])
def test_each_half_has_a_file_of_its_own(tmp_path: Path, ending: str) -> None:
    written(tmp_path / f"match.{ending}", [a_spot(1.0), a_spot(2.0, half=2)], (INFO, INFO))
    assert times_in(tmp_path / f"match.{ending}") == [1.0]
    assert times_in(tmp_path / f"match-2.{ending}") == [2.0]


# Edit decision lists


@given(spots_of_a_half, st.sampled_from(RATES))
def test_editors_find_every_action_to_the_frame(spots: list[Spot], rate_fps: float | None) -> None:
    base, text = timebase_of(rate_fps), edl_text(spots, "main", rate_fps)
    rate = float(base.rate)
    timeline = otio.adapters.read_from_string(text, "cmx_3600", rate=rate)
    events = list(timeline.find_clips())
    assert {event.name for event in events} <= {"main"}
    ranges = [event.source_range for event in events]
    actions = [
        otio.opentime.from_timecode(timecode, rate).to_frames()
        for timecode in re.findall(r"(?m)^\* LOC: (\S+) RED  ", text)
    ]
    assert actions == sorted(base.frame(spot.media_time) for spot in spots)
    for event in ranges:
        assert any(event.start_time.to_frames() <= at < event.end_time_exclusive().to_frames() for at in actions)
        assert event.duration.to_frames() <= 15 * rate + 1
    for event, following in pairwise(ranges):
        assert event.end_time_exclusive() <= following.start_time
    if not base.drop:
        assert [m.marked_range.start_time.to_frames() for e in events for m in e.markers] == actions
    for line in re.findall(r"(?m)^\d.*", text):
        times = line.split()[4:]
        assert times[:2] == times[2:]


@pytest.mark.parametrize(
    ("rate_fps", "at_s", "timecode"),
    [
        (25.0, 754.4, "00:12:34:10"),
        (50.0, 754.4, "00:12:34:10"),
        (None, 754.4, "00:12:34:10"),
        (23.976, 3600.0, "00:59:56:10"),
        (24.0, 3600.0, "01:00:00:00"),
        (29.97, 60.0, "00:00:59;28"),
        (29.97, 60.1, "00:01:00;03"),
        (29.97, 3600.0, "01:00:00;00"),
        (59.94, 3600.0, "01:00:00;00"),
        (30.0, 3600.0, "01:00:00:00"),
        (60.0, 3600.0, "01:00:00:00"),
    ],
)
def test_timecode_counts_the_frames_of_the_recording(rate_fps: float | None, at_s: float, timecode: str) -> None:
    assert f"* LOC: {timecode} RED     Goal 0.91\n" in edl_text([a_spot(at_s)], "main", rate_fps)


@given(st.integers(0, 24 * 107_892 - 1))
def test_drop_frame_timecode_is_that_of_opentimelineio(frame: int) -> None:
    base = timebase_of(29.97)
    theirs = otio.opentime.to_timecode(otio.opentime.RationalTime(frame, float(base.rate)), float(base.rate))
    assert base.timecode(frame) == theirs


def test_an_event_is_around_its_action_and_carries_both_kinds_of_markers() -> None:
    assert edl_text(
        [a_spot(3.0), a_spot(60.0), a_spot(62.0), a_spot(62.0, "Foul")], "cup final", 25.0
    ).splitlines() == [
        "TITLE: cup final",
        "FCM: NON-DROP FRAME",
        "",
        "001  AX       V     C        00:00:00:00 00:00:08:00 00:00:00:00 00:00:08:00",
        "* FROM CLIP NAME: cup final",
        "* LOC: 00:00:03:00 RED     Goal 0.91",
        "|C:ResolveColorRed |M:Goal 0.91 |D:200",
        "",
        "002  AX       V     C        00:00:50:00 00:01:02:00 00:00:50:00 00:01:02:00",
        "* FROM CLIP NAME: cup final",
        "* LOC: 00:01:00:00 RED     Goal 0.91",
        "|C:ResolveColorRed |M:Goal 0.91 |D:300",
        "",
        "003  AX       V     C        00:01:02:00 00:01:07:00 00:01:02:00 00:01:07:00",
        "* FROM CLIP NAME: cup final",
        "* LOC: 00:01:02:00 RED     Foul 0.91",
        "* LOC: 00:01:02:00 RED     Goal 0.91",
        "|C:ResolveColorRed |M:Foul 0.91, Goal 0.91 |D:125",
        "",
    ]


def test_spots_after_a_day_are_left_out_of_timecode_and_counted() -> None:
    text = edl_text([a_spot(5.0), a_spot(90_000.0)], "main", 25.0)
    assert len(list(otio.adapters.read_from_string(text, "cmx_3600", rate=25).find_clips())) == 1
    assert "1 SPOTS AFTER 24 HOURS ARE LEFT OUT" in text
