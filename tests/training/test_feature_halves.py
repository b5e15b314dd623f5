"""Halves of ready-made features: which are found, what is read of them, in what order they come."""

import json
import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.actions import Action
from engines.errors import DataError
from engines.npy import read_header
from training.data.features import (
    FeatureHalf,
    FeatureStream,
    LoadedHalf,
    Note,
    action_rows,
    blocks,
    find_halves,
    report_left_out,
)

VIDEO = FeatureStream("video", "video")
AUDIO = FeatureStream("audio", "audio", optional=True)
LEFT = FeatureStream("left", "video", (0, 3))
RIGHT = FeatureStream("right", "video", (3, 8))
LABELS = ("Goal", "Foul")


def write_match(root: Path, match: str = "l/s/a", rows: Sequence[int] = (10, 12), width: int = 8) -> Path:
    """Make a match whose values are all different."""
    folder = root / match
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(match))
    for half, count in enumerate(rows, 1):
        np.save(folder / f"{half}_video.npy", rng.random((count, width), np.float32))
    annotations = [
        {"gameTime": "1 - 00:03", "label": "Goal", "position": "3700", "visibility": "visible"},
        {"gameTime": "1 - 00:05", "label": "Tea", "position": "5000", "visibility": "visible"},
        {"gameTime": "1 - 00:04", "label": "Foul", "position": "4499", "visibility": "not shown"},
        {"gameTime": "2 - 00:99", "label": "Foul", "position": "99000", "visibility": "visible"},
    ]
    (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
    return folder


def find(root: Path, *streams: FeatureStream, matches: Sequence[str] = ("l/s/a",)) -> list[FeatureHalf]:
    halves, problems = find_halves(root, matches, streams or (VIDEO,), rate=1)
    assert problems == []
    return halves


def reason(root: Path, *streams: FeatureStream) -> str:
    """Return why the first half of the only match is left out."""
    halves, problems = find_halves(root, ["l/s/a"], streams or (VIDEO,), rate=1)
    assert [h.half for h in halves] == [2]
    (problem,) = problems
    assert problem.startswith("Half 1 of l/s/a is left out: ")
    assert problem.endswith(".")
    assert "\n" not in problem
    return problem


def test_streams_are_columns_of_the_files_rows(tmp_path: Path) -> None:
    folder = write_match(tmp_path)
    one, two = find(tmp_path, LEFT, RIGHT)
    assert (one.match, one.half, one.length, one.rate, one.widths) == ("l/s/a", 1, 10, 1, {"left": 3, "right": 5})
    assert (two.half, two.length) == (2, 12)
    rows, values = one.read(), np.load(folder / "1_video.npy")
    np.testing.assert_array_equal(rows["left"], values[:, :3])
    np.testing.assert_array_equal(rows["right"], values[:, 3:])
    assert all(r.flags.c_contiguous and r.flags.owndata and r.dtype == np.float32 for r in rows.values())


@given(first=st.integers(0, 10), last=st.none() | st.integers(0, 14))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_part_of_a_half_is_that_part_of_the_whole(tmp_path: Path, first: int, last: int | None) -> None:
    if not (tmp_path / "l").exists():
        np.save(write_match(tmp_path) / "1_audio.npy", np.random.default_rng(0).random((7, 2), np.float32))
        np.save(tmp_path / "l/s/a/2_audio.npy", np.zeros((12, 2), np.float32))
    half = find_halves(tmp_path, ["l/s/a"], [VIDEO, AUDIO], rate=1)[0][0]
    if last is not None and last < first:
        with pytest.raises(ValueError, match="were asked for"):
            half.read(first, last)
        return
    part, whole = half.read(first, last), half.read()
    for name, rows in whole.items():
        np.testing.assert_array_equal(part[name], rows[first:last])


def test_a_shorter_stream_repeats_its_last_row_and_a_much_shorter_one_is_noted(tmp_path: Path) -> None:
    folder = write_match(tmp_path, rows=(10, 10))
    audio = np.random.default_rng(1).random((9, 2), np.float32)
    np.save(folder / "1_audio.npy", audio)
    np.save(folder / "2_audio.npy", audio[:5])
    halves, problems = find_halves(tmp_path, ["l/s/a"], [VIDEO, AUDIO], rate=1)
    np.testing.assert_array_equal(halves[0].read()["audio"], np.concatenate([audio, audio[-1:]]))
    assert [h.length for h in halves] == [10, 10]
    (note,) = problems
    assert isinstance(note, Note)
    assert "audio has 5 rows of 10" in note


def test_an_optional_stream_without_a_file_is_zeros_and_noted(tmp_path: Path) -> None:
    folder = write_match(tmp_path)
    np.save(folder / "2_audio.npy", np.ones((12, 2), np.float32))
    halves, problems = find_halves(tmp_path, ["l/s/a"], [VIDEO, AUDIO], rate=1)
    assert halves[0].widths == halves[1].widths == {"video": 8, "audio": 2}
    np.testing.assert_array_equal(halves[0].read(2, 5)["audio"], np.zeros((3, 2)))
    (note,) = problems
    assert isinstance(note, Note)
    assert note == "Half 1 of l/s/a: audio has no file and is zeros."


def test_the_width_of_a_stream_without_any_file_is_asked_for(tmp_path: Path) -> None:
    write_match(tmp_path)
    with pytest.raises(DataError, match="say columns"):
        find_halves(tmp_path, ["l/s/a"], [VIDEO, AUDIO], rate=1)
    sized = FeatureStream("audio", "audio", (0, 2), optional=True)
    assert find_halves(tmp_path, ["l/s/a"], [VIDEO, sized], rate=1)[0][0].widths["audio"] == 2
    halves, problems = find_halves(tmp_path, ["l/s/a"], [AUDIO], rate=1)
    assert (len(halves), len(problems)) == (0, 2)


def test_rows_with_an_axis_of_one_are_read_as_rows(tmp_path: Path) -> None:
    folder = write_match(tmp_path)
    values = np.load(folder / "1_video.npy")
    np.save(folder / "1_video.npy", values[:, None])
    np.testing.assert_array_equal(find(tmp_path)[0].read(3, 6)["video"], values[3:6])


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_of_any_kind_come_as_float32(tmp_path: Path, dtype: str, order: Any) -> None:
    folder = write_match(tmp_path)
    values = np.arange(80, dtype=np.float32).reshape(10, 8)
    for half in (1, 2):
        np.save(folder / f"{half}_video.npy", np.array(values, dtype, order=order))
    rows = find(tmp_path)[0].read()["video"]
    assert rows.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(rows, values)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((10, 7), np.float32), "7 float32, those of"),
        (np.zeros((10, 8), np.float64), "8 float64, those of"),
        (np.zeros((10, 8), np.int32), "int32, where floats belong"),
        (np.zeros(80, np.float32), "its shape is"),
        (np.zeros((10, 2, 8), np.float32), "its shape is"),
        (np.zeros((0, 8), np.float32), "its shape is"),
    ],
)
def test_an_array_of_another_kind_leaves_its_half_out(tmp_path: Path, array: np.ndarray, why: str) -> None:
    np.save(write_match(tmp_path, "l/s/0") / "1_video.npy", np.zeros((4, 8), np.float32))
    path = write_match(tmp_path) / "1_video.npy"
    np.save(path, array)
    halves, (problem,) = find_halves(tmp_path, ["l/s/0", "l/s/a"], [VIDEO], rate=1)
    assert [(h.match, h.half) for h in halves] == [("l/s/0", 1), ("l/s/0", 2), ("l/s/a", 2)]
    assert str(path) in problem
    assert why in problem


def test_a_half_that_is_left_out_sets_no_example_for_the_others(tmp_path: Path) -> None:
    folder = write_match(tmp_path)
    np.save(folder / "1_video.npy", np.zeros((10, 5), np.float32))
    assert "columns (3, 8)" in reason(tmp_path, LEFT, RIGHT)


class Malicious:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_pickled_objects_are_refused_and_run_nothing(tmp_path: Path) -> None:
    path, made = write_match(tmp_path) / "1_video.npy", tmp_path / "made"
    np.save(path, np.array([[Malicious(made)]], object))
    assert f"{path}: holds pickled objects" in reason(tmp_path)
    path.write_bytes(pickle.dumps(Malicious(made)))
    assert f"{path}: is not a .npy file" in reason(tmp_path)
    assert not made.exists()


def test_a_missing_a_cut_and_a_foreign_file_leave_their_half_out(tmp_path: Path) -> None:
    path = write_match(tmp_path) / "1_video.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"{path}: is cut off: 319 bytes of 320" in reason(tmp_path)
    path.write_bytes(b"")
    assert f"{path}: is not a .npy file" in reason(tmp_path)
    path.unlink()
    assert f"{path}: cannot be read: No such file" in reason(tmp_path)


@given(flips=st.lists(st.tuples(st.integers(0, 127), st.integers(1, 255)), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_a_damaged_header_is_one_sentence(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((3, 4), np.float32))
    data = bytearray(path.read_bytes())
    for place, bits in flips:
        data[place] ^= bits
    path.write_bytes(data)
    try:
        file = read_header(path)
    except DataError as error:
        message = str(error)
    else:
        message = "."
        assert file.rows * file.width * file.dtype.itemsize <= len(data)
    assert message.endswith(".")
    assert "\n" not in message


def test_a_match_without_labels_leaves_both_halves_out_unless_none_are_wanted(tmp_path: Path) -> None:
    (write_match(tmp_path) / "Labels-v2.json").unlink()
    halves, problems = find_halves(tmp_path, ["l/s/a"], [VIDEO], rate=1)
    assert (len(halves), len(problems)) == (0, 2)
    assert all("Labels-v2.json" in p for p in problems)
    halves, problems = find_halves(tmp_path, ["l/s/a"], [VIDEO], rate=1, labels_name=None)
    assert [h.actions for h in halves] == [(), ()]
    assert problems == []


def test_matches_may_lie_in_the_spotting_folder(tmp_path: Path) -> None:
    write_match(tmp_path / "spotting")
    assert [h.match for h in find(tmp_path)] == ["l/s/a", "l/s/a"]


def test_finding_halves_keeps_nothing_open_and_nothing_mapped(tmp_path: Path) -> None:
    matches = [f"l/s/{i}" for i in range(30)]
    for match in matches:
        write_match(tmp_path, match)
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    halves = find(tmp_path, matches=matches)
    rows = [half.read() for half in halves]
    assert len(rows) == 60
    assert len(list(descriptors.iterdir())) == before
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_file_that_changes_after_it_was_found_is_one_sentence(tmp_path: Path) -> None:
    path = write_match(tmp_path) / "1_video.npy"
    half = find(tmp_path)[0]
    np.save(path, np.zeros((9, 8), np.float32))
    with pytest.raises(DataError, match="has changed"):
        half.read()
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="can no longer be read"):
        half.read()
    path.unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        list(blocks([half], 0, 0))


def test_what_is_left_out_is_logged_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    report_left_out([])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        report_left_out(["a.", Note("b."), "c."])
    assert [r.getMessage() for r in caplog.records] == [
        "a.",
        "b.",
        "c.",
        "Left out: 2 halves; notes on halves in use: 1.",
    ]


def test_actions_are_those_of_the_half_in_order_of_time(tmp_path: Path) -> None:
    write_match(tmp_path)
    one, two = find(tmp_path)
    assert [(a.label, a.time_s, a.visible) for a in one.actions] == [
        ("Goal", 3.7, True),
        ("Foul", 4.499, False),
        ("Tea", 5.0, True),
    ]
    assert action_rows(one, LABELS).tolist() == [[3, 0], [4, 1]]
    assert action_rows(two, LABELS).tolist() == [[99, 1]]
    assert action_rows(two, ()).shape == (0, 2)


@pytest.mark.parametrize(
    ("rate", "position_ms", "by_position", "by_game_time"),
    [
        (1, 3999, 3, 3),
        (2, 3499, 6, 6),
        (2, 3500, 7, 6),
        (25, 1160, 28, 25),
        (1, -300, 0, 0),
        (2, 6_300_000, 12600, 12600),
    ],
)
def test_rows_of_actions_follow_the_convention(
    rate: float, position_ms: int, by_position: int, by_game_time: int
) -> None:
    """25 rows a second at 1160 ms is 28 and not 29: the metric's own floating point."""
    action = Action("Goal", 1, position_ms / 1000)
    half = LoadedHalf("m", 1, rate, (action,), {"video": np.zeros((3, 1), np.float32)})
    assert action_rows(half, LABELS, "position").tolist() == [[by_position, 0]]
    assert action_rows(half, LABELS, "gameTime").tolist() == [[by_game_time, 0]]


def test_wrong_streams_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="columns"):
        FeatureStream("a", "f", (3, 3))
    for streams, rate in (([], 1.0), ([VIDEO, VIDEO], 1.0), ([VIDEO], 0.0)):
        with pytest.raises(ValueError, match="different names"):
            find_halves(tmp_path, [], streams, rate)
    with pytest.raises(ValueError, match="'position', 'gameTime'"):
        action_rows(LoadedHalf("m", 1, 1.0, (), {}), LABELS, "match time")  # type: ignore[arg-type]
