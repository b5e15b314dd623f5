"""Words as JSON lines: what of them counts, by which clock, and what is refused."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.decider import Spot
from engines.errors import DataError
from engines.labels import SOCCERNET_LABELS
from streamer.payload import spot_to_json
from training.data.words import History, read_words

GOAL, FOUL = SOCCERNET_LABELS.index("Goal"), SOCCERNET_LABELS.index("Foul")
WORD: dict[str, Any] = {
    "id": "a",
    "stream": "match",
    "half": 1,
    "epoch": 0,
    "label": "Goal",
    "media_time": 100.5,
    "confidence": 0.75,
    "state": "confirmed",
    "revision": 1,
    "emitted_at": 103.0,
    "latency": {"grid": 0.5, "look_ahead": 1.0, "hold": 1.0, "compute": 0.25},
    "flags": [],
    "said_utc": "2031-08-16T19:00:00.000000Z",
}


def write(path: Path, *words: Mapping[str, Any] | str) -> Path:
    lines = [word if isinstance(word, str) else json.dumps(WORD | dict(word)) for word in words]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spots.jsonl"


def first_half(path: Path) -> History:
    histories, left_out = read_words(path)
    assert not left_out
    assert set(histories) == {1, 2}
    return histories[1]


PROVISIONAL: dict[str, Any] = {"state": "provisional", "media_time": 100.0, "confidence": 0.5, "emitted_at": 101.0}


def test_a_spot_is_where_when_and_how_sure_its_confirmed_word_says(path: Path) -> None:
    write(path, PROVISIONAL, PROVISIONAL | {"revision": 2, "media_time": 101.0}, {"revision": 3})
    found = first_half(path)
    said, first = found.said, found.provisional
    assert (said.positions_ms_N.tolist(), said.labels_N.tolist()) == ([100_500], [GOAL])
    assert (said.confidences_N.tolist(), said.said_ms_N.tolist()) == ([0.75], [103_000])
    assert (said.retracted_ms_N.tolist(), found.revisions_N.tolist()) == ([-1], [3])
    assert (first.positions_ms_M.tolist(), first.said_ms_M.tolist()) == ([100_000], [101_000])
    assert (first.spots_M.tolist(), first.retracted_M.tolist()) == ([0], [False])


def test_what_was_never_confirmed_is_no_spot(path: Path) -> None:
    retracted = {"state": "retracted", "revision": 2, "emitted_at": 104.0}
    found = first_half(write(path, PROVISIONAL, retracted, PROVISIONAL | {"id": "b"}, retracted | {"id": "c"}))
    assert len(found.said.labels_N) == len(found.said.final.labels_N) == 0
    assert found.provisional.spots_M.tolist() == [-1, -1]
    assert found.provisional.retracted_M.tolist() == [True, False]


def test_what_was_confirmed_may_be_retracted_by_feeds_of_others(path: Path) -> None:
    found = first_half(write(path, {}, {"state": "retracted", "revision": 2, "emitted_at": 109.5}, {"id": "b"}))
    assert found.said.retracted_ms_N.tolist() == [109_500, -1]
    assert found.said.stands_N.tolist() == [False, True]
    assert len(found.said.final.labels_N) == 1
    assert len(found.provisional.spots_M) == 0


def test_words_count_once_in_whatever_order_they_come(path: Path) -> None:
    words: list[dict[str, Any]] = [PROVISIONAL, {"revision": 2}, {"id": "b", "media_time": 50, "label": "Foul"}]
    straight = first_half(write(path, *words))
    twice = first_half(write(path, *reversed(words), *words, PROVISIONAL | {"emitted_at": 99.0}))
    for found in (straight, twice):
        assert found.said.positions_ms_N.tolist() == [50_000, 100_500]
        assert found.said.labels_N.tolist() == [FOUL, GOAL]
        assert found.provisional.spots_M.tolist() == [1]
        assert found.provisional.said_ms_M.tolist() == [101_000]


def test_halves_are_kept_apart(path: Path) -> None:
    histories, _ = read_words(write(path, {}, {"half": 2, "media_time": 7.0}))
    assert [histories[half].said.positions_ms_N.tolist() for half in (1, 2)] == [[100_500], [7000]]


def test_the_wall_clock_adds_compute_and_publish(path: Path) -> None:
    write(path, PROVISIONAL, {"revision": 2, "publish": 0.125}, {"state": "retracted", "revision": 3, "publish": -0.5})
    histories, _ = read_words(path, clock="wall")
    assert histories[1].said.said_ms_N.tolist() == [103_375]
    assert histories[1].said.retracted_ms_N.tolist() == [102_750]
    assert histories[1].provisional.said_ms_M.tolist() == [101_250]


def test_the_wall_clock_needs_compute_times(path: Path) -> None:
    write(path, {}, {"id": "b", "latency": {}})
    read_words(path)
    with pytest.raises(DataError, match=r"line 2 does not say its latency\.compute; judge these words with --said"):
        read_words(path, clock="wall")


def test_spots_of_other_labels_are_left_out_and_counted(path: Path) -> None:
    others = [{"label": "PASS", "id": spot, "revision": revision} for spot, revision in (("b", 1), ("b", 2), ("c", 1))]
    histories, left_out = read_words(write(path, {}, *others))
    assert len(histories[1].said.labels_N) == 1
    assert left_out == {"PASS": 2}


def test_what_the_streamer_writes_is_read(path: Path) -> None:
    spot = Spot("a", "match", 2, 0, "Foul", 12.345, 0.5, 15.0, latency={"compute": 0.1})
    histories, _ = read_words(write(path, spot_to_json(spot, datetime.now(UTC)), ""), clock="wall")
    said = histories[2].said
    assert (said.positions_ms_N.tolist(), said.said_ms_N.tolist()) == ([12_345], [15_100])


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_words(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ("[" * 100_000, "Invalid JSON"),
        ({"half": 3}, "half: Input should be 1 or 2"),
        ({"half": "1"}, "half: "),
        ({"media_time": -1}, "media_time: "),
        ({"media_time": 1e300}, "media_time: "),
        ({"emitted_at": "103"}, "emitted_at: "),
        ({"confidence": 1.5}, "confidence: "),
        ({"state": "final"}, "state: "),
        ({"revision": 0}, "revision: "),
        ({"id": ""}, "id: "),
        ({"label": None}, "label: "),
        ({"latency": {"compute": "soon"}}, "latency.compute: "),
        ({"publish": "soon"}, "publish: "),
    ],
)
def test_what_is_no_word_is_refused_with_its_line(path: Path, word: dict[str, Any] | str, said: str) -> None:
    text = refused(write(path, {}, "", word))
    assert f"line 3 is not a spot: {said}" in text


@pytest.mark.parametrize("key", ["id", "half", "label", "media_time", "confidence", "state", "revision", "emitted_at"])
def test_words_that_lack_a_field_are_refused(path: Path, key: str) -> None:
    lacking = json.dumps({k: v for k, v in WORD.items() if k != key})
    assert f"line 1 is not a spot: {key}: Field required" in refused(write(path, lacking))


@pytest.mark.parametrize(
    ("states", "said"),
    [
        (["confirmed", "confirmed"], "line 2 makes spot a confirmed after revision 1 had confirmed it"),
        (["confirmed", "provisional"], "line 2 makes spot a provisional after revision 1 had confirmed it"),
        (["provisional", "retracted", "confirmed"], "line 3 makes spot a confirmed after revision 2 had retracted it"),
    ],
)
def test_a_final_word_is_final(path: Path, states: list[str], said: str) -> None:
    words = [{"state": state, "revision": revision} for revision, state in enumerate(states, start=1)]
    assert said in refused(write(path, *words))


def test_results_are_refused_for_not_saying_when(path: Path) -> None:
    prediction = {"label": "Goal", "position": "1", "half": "1", "confidence": "0.5"}
    for indent in (None, 1):
        path.write_text(json.dumps({"UrlLocal": "match", "predictions": [prediction]}, indent=indent))
        assert "does not say when its spots were said; give the JSON lines of touchline replay" in refused(path)


def test_a_file_that_is_not_there_is_refused(path: Path) -> None:
    assert "cannot be read: No such file or directory" in refused(path)


def test_words_of_two_streams_are_not_judged_as_one(path: Path) -> None:
    write(path, {"id": "a"}, {"id": "b", "stream": "other"})
    with pytest.raises(DataError, match="line 2 is of another stream"):
        read_words(path)
