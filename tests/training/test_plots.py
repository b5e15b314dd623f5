"""Pictures of an evaluation: what they hold, and what is refused."""

import argparse
import html
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import DataError, UsageError
from engines.labels import SOCCERNET_LABELS
from training import plots
from training.data.results import LABELS_NAME, RESULTS_NAME, Predictions, Truth
from training.evaluate import add_arguments, run
from training.metric import average_map, curves

pytest.importorskip("matplotlib")

MATCHES = ("league/season/A 1 - 0 B", "league/season/C 0 - 0 D")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for match in MATCHES:
        folder = tmp_path / "tree" / match
        folder.mkdir(parents=True)
        actions = [
            {"gameTime": f"{half} - 10:00", "label": label, "position": "600000", "visibility": visibility}
            for half, label, visibility in ((1, "Goal", "visible"), (1, "Foul", "not shown"), (2, "Corner", "visible"))
        ]
        spots = [
            {"label": label, "position": ms, "half": half, "confidence": 0.8}
            for half, label, ms in ((1, "Goal", 600_500), (1, "Goal", 900_000), (2, "Corner", 600_000))
        ]
        (folder / LABELS_NAME).write_text(json.dumps({"annotations": actions}))
        (folder / RESULTS_NAME).write_text(json.dumps({"predictions": spots}))
    return tmp_path / "tree"


def evaluate(tree: Path, *arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(tree), "--labels", str(tree), *map(str, arguments)]))


def words(path: Path) -> str:
    """Return an SVG with its texts readable: matplotlib draws letters as shapes, and says in comments what they say."""
    return html.unescape(path.read_text(encoding="utf-8"))


def test_a_png_is_written_beside_the_table(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tree, "--plot", tmp_path / "out.PNG") == 0
    assert (tmp_path / "out.PNG").read_bytes().startswith(b"\x89PNG")
    assert "average of all 17" in capsys.readouterr().out


def test_the_picture_names_labels_match_and_halves(tree: Path, tmp_path: Path) -> None:
    evaluate(tree, "--plot", tmp_path / "out.svg")
    text = words(tmp_path / "out.svg")
    ET.parse(tmp_path / "out.svg")
    for label in SOCCERNET_LABELS:
        assert label in text
    for said in (
        f"{MATCHES[0]}, half 1",
        f"{MATCHES[0]}, half 2",
        "visible actions",
        "right (within ±2.5 s)",
        "recall",
    ):
        assert said in text
    assert MATCHES[1] not in text


def test_match_and_half_choose_the_timeline(tree: Path, tmp_path: Path) -> None:
    evaluate(tree, "--plot", tmp_path / "out.svg", "--match", "C 0", "--half", "2", "--metric", "loose")
    text = words(tmp_path / "out.svg")
    assert f"{MATCHES[1]}, half 2" in text
    assert f"{MATCHES[1]}, half 1" not in text
    assert "right (within ±30 s)" in text


def test_scores_are_drawn_if_given(tree: Path, tmp_path: Path) -> None:
    scores: dict[str, Any] = {"1": np.random.default_rng(0).random((2800, 17)).astype(np.float32)}
    np.savez(tmp_path / "scores.npz", **scores)
    evaluate(tree, "--plot", tmp_path / "with.svg", "--scores", tmp_path / "scores.npz")
    evaluate(tree, "--plot", tmp_path / "without.svg")
    assert "<!-- score -->" in words(tmp_path / "with.svg")
    assert "<!-- score -->" not in words(tmp_path / "without.svg")


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [
        ({}, [0.5, 1.5, 2.5]),
        ({"rate": 2}, [0.25, 0.75, 1.25]),
        ({"rate": np.float64(2), "row_time_s": 0.0}, [0, 0.5, 1]),
        ({"row_time_s": 0.96}, [0.96, 1.96, 2.96]),
    ],
)
def test_scores_are_drawn_at_their_rows_times(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: dict[str, Any], wanted: list[float]
) -> None:
    from matplotlib.axes import Axes

    drawn: list[list[float]] = []
    fill = Axes.fill_between

    def spied(axes: Axes, minutes: Any, *more: Any, **options: Any) -> Any:
        drawn.append((60 * minutes).tolist())
        return fill(axes, minutes, *more, **options)

    monkeypatch.setattr(Axes, "fill_between", spied)
    arrays: dict[str, Any] = {"1": np.full((3, 17), 0.5, np.float32), **numbers}
    np.savez(tmp_path / "scores.npz", **arrays)
    evaluate(tree, "--plot", tmp_path / "out.svg", "--scores", tmp_path / "scores.npz")
    assert len(drawn) == 2  # Goal and Foul
    assert all(times == pytest.approx(wanted) for times in drawn)


def test_nothing_at_all_can_be_drawn(tmp_path: Path) -> None:
    nothing = [Truth.of([])], [Predictions.of([])]
    plots.draw(tmp_path / "out.png", average_map(*nothing), curves(*nothing, 5)[0], [])
    assert (tmp_path / "out.png").is_file()


def test_a_dense_half_and_an_empty_one_can_be_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = np.arange(0, 5400, 3).repeat(17)
    dense = Predictions(rows * 500, np.tile(np.arange(17), 1800), rng.random(rows.size))
    truth = Truth(np.arange(17) * 100_000, np.arange(17), np.arange(17) % 2 > 0)
    nothing = (Truth.of([]), Predictions.of([]))
    halves_of_all = [truth, nothing[0]], [dense, nothing[1]]
    result, curve = average_map(*halves_of_all, "at1"), curves(*halves_of_all, 1)[0]
    halves = [plots.Timeline("dense", truth, dense), plots.Timeline("empty", *nothing)]
    plots.draw(tmp_path / "out.png", result, curve, halves)
    assert (tmp_path / "out.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--match", "A"], "add --plot FILE"),
        (["--plot", "out.pdf"], "neither .png nor .svg"),
        (["--plot", "nowhere/out.png"], "cannot be written"),
        (["--plot", "out.png", "--match", "Z"], "0 matches are named 'Z'"),
        (["--plot", "out.png", "--match", "league"], "2 matches are named 'league'"),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        evaluate(tree, *arguments)
    assert not list(tmp_path.glob("out.*"))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"1": np.zeros((5, 3), np.float32)}, r'array "1" is float32 \(5, 3\); give floats'),
        ({"2": np.zeros((5, 17), np.int64)}, r'array "2" is int64'),
        ({"scores": np.zeros((5, 17))}, 'has neither array "1" nor "2"'),
        ({"1": np.array([{}], object)}, "is no readable npz"),
        ({"1": np.zeros((5, 17)), "rate": 0}, '"rate" is 0'),
        ({"1": np.zeros((5, 17)), "rate": -1}, '"rate" is int64 -1; give one number'),
        ({"1": np.zeros((5, 17)), "row_time_s": np.nan}, '"row_time_s" is float64 nan'),
        ({"1": np.zeros((5, 17)), "row_time_s": [0, 1]}, '"row_time_s" is int64'),
        ({"1": np.zeros((5, 17)), "rate": "2"}, '"rate" is <U1 2'),
    ],
)
def test_scores_of_another_form_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "scores.npz", **arrays)
    with pytest.raises(DataError, match=said):
        plots.read_scores(tmp_path / "scores.npz", 17)


def test_scores_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("scores")
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "one.npy", "nowhere.npz"):
        with pytest.raises(DataError, match="is no readable npz"):
            plots.read_scores(tmp_path / name, 17)


def test_without_matplotlib_the_error_says_how_to_get_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match="make train-setup"):
        evaluate(tree, "--plot", tmp_path / "out.png")


def test_matplotlib_is_not_loaded_unless_something_is_drawn(root: Path, tree: Path) -> None:
    code = (
        "import sys, training.plots, streamer.cli; "
        "from streamer.cli import main; main(sys.argv[1:]); sys.exit('matplotlib' in sys.modules)"
    )
    arguments = ["evaluate", str(tree), "--labels", str(tree), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
