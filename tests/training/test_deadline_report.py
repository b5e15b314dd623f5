"""`touchline evaluate --deadlines`: what it prints, draws and refuses."""

import html
import json
import math
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from command import Touchline

from engines.labels import SOCCERNET_LABELS
from training.data.results import LABELS_NAME, RESULTS_NAME
from training.data.words import WORDS_NAME

MATCHES = ("league/season/A 1 - 0 B", "league/season/C 0 - 0 D")
GOAL = SOCCERNET_LABELS.index("Goal")


def word(spot: str, label: str, media_time: float, emitted_at: float, **others: Any) -> dict[str, Any]:
    common = {"stream": "match", "half": 1, "epoch": 0, "confidence": 0.9, "state": "confirmed", "revision": 1}
    times = {"media_time": media_time, "emitted_at": emitted_at, "latency": {"compute": 0.5}}
    return {"id": spot, "label": label, **common, **times, **others}


WORDS = [
    word("a", "Goal", 100.0, 101.0, state="provisional"),
    word("a", "Goal", 100.2, 103.0, revision=2),
    word("b", "Goal", 200.0, 207.0),
    word("c", "Foul", 300.0, 302.0, half=2),
]
ACTIONS = [("1", "Goal", 100_000), ("1", "Goal", 200_000), ("2", "Foul", 300_000)]


def write_match(folder: Path, words: list[dict[str, Any]] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    annotations = [{"gameTime": f"{half} - 00:00", "label": label, "position": str(ms)} for half, label, ms in ACTIONS]
    (folder / LABELS_NAME).write_text(json.dumps({"annotations": annotations}))
    lines = [json.dumps(one) for one in (WORDS if words is None else words)]
    (folder / WORDS_NAME).write_text("".join(line + "\n" for line in lines))
    return folder


@pytest.fixture
def match(tmp_path: Path) -> Path:
    return write_match(tmp_path / "match")


def arguments(folder: Path, *more: str | Path) -> list[str | Path]:
    return ["evaluate", folder / WORDS_NAME, "--labels", folder / LABELS_NAME, "--deadlines", *more]


def test_the_table_shows_each_deadline_and_label(touchline_here: Touchline, match: Path) -> None:
    done = touchline_here(*arguments(match))
    assert (done.code, done.err) == (0, "")
    lines = [line.split() for line in done.out.splitlines()]
    assert ["1", "s", "0.00", "0.0", "0.00", "0.00", "0.0", "0.00", "0.0"] in lines
    assert ["3", "s", "9.09", "77.3", "7.49", "9.09", "77.3", "7.49", "66.7"] in lines
    assert ["∞", "11.76", "100.0", "11.76", "11.76", "100.0", "11.76", "100.0"] in lines
    assert ["Goal", "54.5", "54.5", "100.0", "2/2", "3.0", "7.0", "7.0", "7.0"] in lines
    assert ["Corner", "-", "-", "-", "0/0", "-", "-", "-", "-"] in lines
    assert max(map(len, done.out.splitlines())) <= 80
    text = " ".join(done.out.split())
    assert "A(5), average of the 2 occurring, percent 77.27" in text
    assert "D90, least deadline with 90% of A(∞) 8 s 8 s" in text
    assert "Said by the media clock." in text
    assert "spots that were provisional first 1 … confirmed and right in the end, percent 100.0" in text


def test_without_provisional_words_a_dash_stands_for_what_they_would_tell(
    touchline_here: Touchline, tmp_path: Path
) -> None:
    folder = write_match(tmp_path, WORDS[2:])
    assert touchline_here(*arguments(folder)).out.split()[-5:] == ["that", "were", "provisional", "first", "-"]
    assert json.loads(touchline_here(*arguments(folder, "--json")).out)["words"]["provisional"] is None


def test_json_is_one_object_with_all_figures(touchline_here: Touchline, match: Path) -> None:
    found = json.loads(touchline_here(*arguments(match, "--json")).out)
    assert found["deadlines_s"] == [1, 2, 3, 4, 5, 8, 16, 32, 64, None]
    assert (found["said"], tuple(found["labels"]), found["actions"][GOAL]) == ("media", SOCCERNET_LABELS, 2)
    tight = found["tight"]
    assert tight["a_mAP"][2] == pytest.approx((1 + 6 / 11) / 17)
    assert tight["a_mAP_occurring"][-1] == 1
    assert tight["a_mAP_per_class"][2][GOAL] == pytest.approx(6 / 11)
    assert tight["a_mAP_strict"][2] < tight["a_mAP"][2]
    assert tight["share"][2] == pytest.approx((1 + 6 / 11) / 2)
    assert tight["latency_loss"][2] == pytest.approx(5 / 11 / 17)
    assert (tight["D50_s"], tight["D90_s"], tight["D95_s"]) == (2, 8, 8)
    assert 0 < tight["DAUC"] < 1
    assert found["recall"]["all"][2] == pytest.approx(2 / 3)
    assert found["say_delay"]["all"] == {"count": 3, "p50_s": 3, "p95_s": 7, "p99_s": 7, "max_s": 7}
    assert found["say_delay"]["per_class"][GOAL]["count"] == 2
    early = found["words"]["provisional"]
    assert early["precision"] == {"count": 1, "share": 1}
    assert early["by_delay"][0] == {"up_to_s": 1, "count": 1, "share": 1}
    assert early["by_delay"][-1] == {"up_to_s": None, "count": 0, "share": None}
    assert (early["lead"]["p50_s"], early["drift"]["p95_s"], early["retracted"]) == (2, 0.2, 0)


def test_no_deadline_gives_what_evaluate_gives_of_the_results(touchline_here: Touchline, match: Path) -> None:
    final = [one for one in WORDS if one["state"] == "confirmed"]
    predictions = [one | {"position": round(1000 * one["media_time"])} for one in final]
    (match / RESULTS_NAME).write_text(json.dumps({"predictions": predictions}))
    found = json.loads(touchline_here(*arguments(match, "--json")).out)
    for metric in ("tight", "loose"):
        usual = touchline_here(
            "evaluate", match / RESULTS_NAME, "--labels", match / LABELS_NAME, "--metric", metric, "--json"
        )
        wanted = json.loads(usual.out)
        assert found[metric]["a_mAP"][-1] == wanted["a_mAP"]
        assert found[metric]["a_mAP_per_class"][-1] == wanted["a_mAP_per_class"]
        assert found[metric]["a_mAP_occurring"][-1] == wanted["a_mAP_occurring"]


def test_words_are_judged_as_results_too(touchline_here: Touchline, match: Path) -> None:
    done = touchline_here("evaluate", match / WORDS_NAME, "--labels", match / LABELS_NAME, "--json")
    assert json.loads(done.out)["a_mAP_occurring"] == 1


def test_the_wall_clock_counts_compute_too(touchline_here: Touchline, match: Path) -> None:
    found = json.loads(touchline_here(*arguments(match, "--json", "--said", "wall")).out)
    assert found["said"] == "wall"
    assert found["say_delay"]["all"]["max_s"] == 7.5
    assert found["tight"]["a_mAP_per_class"][2][GOAL] == 0
    assert "plus compute and publish by the wall clock" in " ".join(
        touchline_here(*arguments(match, "--said", "wall")).out.split()
    )


def test_a_feed_without_any_word_is_judged(touchline_here: Touchline, tmp_path: Path) -> None:
    folder = write_match(tmp_path, [])
    done = touchline_here(*arguments(folder))
    assert done.code == 0
    found = json.loads(touchline_here(*arguments(folder, "--json", "--plot", tmp_path / "none.png")).out)
    assert found["tight"]["share"] == [None] * 10
    assert (found["tight"]["D90_s"], found["tight"]["DAUC"], found["words"]["revisions"]) == (None, None, None)


def test_matches_of_a_tree_are_judged_together(touchline_here: Touchline, tmp_path: Path) -> None:
    write_match(tmp_path / MATCHES[0])
    write_match(tmp_path / MATCHES[1], [word("x", "PASS", 1, 2), word("y", "Goal", 100, 104)])
    done = touchline_here("evaluate", tmp_path, "--labels", tmp_path, "--deadlines", "--json")
    assert json.loads(done.out)["say_delay"]["per_class"][GOAL]["count"] == 3
    assert done.err == "note: left out 1 spots of labels that SoccerNet-v2 does not have: PASS\n"
    (tmp_path / MATCHES[1] / WORDS_NAME).unlink()
    done = touchline_here("evaluate", tmp_path, "--labels", tmp_path, "--deadlines", "--json")
    assert f"note: left out 1 of 2 matches, which have no results: {MATCHES[1]}" in done.err


# The picture


def test_the_curve_is_drawn_as_png_and_svg(touchline_here: Touchline, match: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("curve.png", "curve.svg"):
        assert touchline_here(*arguments(match, "--plot", tmp_path / name)).code == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    ET.parse(tmp_path / "curve.svg")
    words = html.unescape((tmp_path / "curve.svg").read_text(encoding="utf-8"))
    for said in ("Accuracy under a deadline", "tight", "loose", "D90, D95: 8 s", "strict", "∞", "percent"):
        assert said in words


def test_a_picture_that_cannot_be_drawn_is_refused(touchline_here: Touchline, match: Path, tmp_path: Path) -> None:
    assert "neither .png nor .svg" in touchline_here(*arguments(match, "--plot", tmp_path / "curve.pdf")).complaint
    assert "cannot be written" in touchline_here(*arguments(match, "--plot", tmp_path / "no" / "curve.svg")).complaint


# Refusals


def test_results_do_not_say_when_spots_were_said(touchline_here: Touchline, tmp_path: Path) -> None:
    folder = write_match(tmp_path / MATCHES[0])
    (folder / WORDS_NAME).unlink()
    results = folder / RESULTS_NAME
    results.write_text(json.dumps({"predictions": []}))
    done = touchline_here("evaluate", results, "--labels", folder / LABELS_NAME, "--deadlines")
    assert done.code == 1
    assert "does not say when its spots were said; give the JSON lines of touchline replay or watch" in done.complaint
    done = touchline_here("evaluate", tmp_path, "--labels", tmp_path, "--deadlines")
    assert f"its {RESULTS_NAME} do not say when spots were said; give <league>/<season>/<match>/spots" in done.complaint
    packed = Path(shutil.make_archive(str(tmp_path / "results"), "zip", tmp_path, "league"))
    done = touchline_here("evaluate", packed, "--labels", tmp_path, "--deadlines")
    assert "is a file, but" in done.complaint


def test_a_tree_without_words_is_refused(touchline_here: Touchline, tmp_path: Path) -> None:
    folder = write_match(tmp_path / MATCHES[0])
    (folder / WORDS_NAME).unlink()
    done = touchline_here("evaluate", tmp_path, "--labels", tmp_path, "--deadlines")
    assert f"holds no <league>/<season>/<match>/{WORDS_NAME}" in done.complaint


def test_a_line_that_is_no_word_is_named(touchline_here: Touchline, match: Path) -> None:
    with (match / WORDS_NAME).open("a") as file:
        file.write("{}\n")
    done = touchline_here(*arguments(match))
    assert done.code == 1
    assert f"{match / WORDS_NAME}: line 5 is not a spot: id: Field required" in done.complaint


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metric", "loose"], "leave out --metric"),
        (["--corrected", "--half", "1"], "leave out --corrected, --half"),
        (["--scores", "x.npz"], "leave out --scores"),
    ],
)
def test_options_of_the_other_judgement_are_refused(
    touchline_here: Touchline, match: Path, more: list[str], said: str
) -> None:
    done = touchline_here(*arguments(match, *more))
    assert done.code == 2
    assert said in done.complaint


def test_the_clock_of_words_needs_deadlines(touchline_here: Touchline, match: Path) -> None:
    done = touchline_here("evaluate", match / WORDS_NAME, "--labels", match / LABELS_NAME, "--said", "wall")
    assert (done.code, "add --deadlines" in done.complaint) == (2, True)


def test_json_holds_no_infinity(touchline_here: Touchline, match: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(touchline_here(*arguments(match, "--json")).out, parse_constant=refuse)
    assert math.inf not in json.loads(touchline_here(*arguments(match, "--json")).out)["deadlines_s"]
