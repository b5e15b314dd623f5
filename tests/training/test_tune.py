"""What `touchline tune` chooses: by the decider that will run, under the deadline that will run, on one split alone."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from command import Touchline
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from engines.actions import Action
from engines.backends.ort import OrtEngine
from engines.bundle import FORMAT_VERSION, Bundle, Decision, HeadSpec, Manifest, ModalityStream, open_bundle
from engines.decider import Decider, Spot
from engines.errors import BundleError
from engines.frontend import embeddings_of
from engines.second import FORCED
from training import tune_command
from training.calibrate import EDGE, UNCHANGED, Calibration, calibrate, calibrate_graph, fit_calibration
from training.choice import (
    Wish,
    candidates,
    choose_provisional,
    choose_settings,
    choose_thresholds,
    decided,
    everywhere,
)
from training.export import write_head_bundle
from training.measure import measured, record
from training.ranked import Ranked, at_precision, best_f1, points, rank, verdicts
from training.reliability import expected_calibration_error
from training.scoring import FLOOR, Recorded, words_of
from training.tune import Choice, calibrated, choose

LABELS = ("Goal", "Foul")
LOOK_AHEADS = (0, 1, 3)
SECONDS = 150
COLUMNS = len(LABELS) * len(LOOK_AHEADS)
"""A row of the features holds what the head is to say of it: two labels at each look-ahead, rising."""


class Planted(nn.Module):
    """A head that reads its scores off the row that they are for."""

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores (B, C) and early scores (B, E, C)."""
        *early, last = (rows[:, -1 - a, 2 * i : 2 * i + 2].clamp(0, 1) for i, a in enumerate(LOOK_AHEADS))
        return last, torch.stack(early, 1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("planted") / "bundle"
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="planted",
        labels=LABELS,
        streams=(ModalityStream(name="rows", modality="other", file=None, features="planted", width=COLUMNS),),
        head=HeadSpec(file="head.onnx", kind="planted", rows=5, look_ahead_s=3, early_look_ahead_s=(0, 1)),
        decision=dict.fromkeys(LABELS, Decision(threshold=0.5, radius_s=1.0)),
        sha256={},
    )
    write_head_bundle(path, Planted(), manifest)
    return open_bundle(path)


def planted(
    found: Mapping[int, float], seed: int = 0, foul_every: int = 40, alarms: float = 0.0
) -> tuple[np.ndarray, list[Action]]:
    """A half's rows, and its actions: a goal every 8 s, fouls more seldom.

    Args:
        found: look-ahead → the share of the goals that it sees; fouls are seen at every look-ahead.
        seed: of what is seen, and of the noise, which stays below 0.3.
        foul_every: seconds.
        alarms: share of the times between two goals at which every look-ahead sees a goal that is none.
    """
    rng = np.random.default_rng(seed)
    rows = rng.uniform(0.02, 0.3, (SECONDS, COLUMNS)).astype(np.float32)
    goals, fouls = range(10, SECONDS - 10, 8), range(14, SECONDS - 10, foul_every)
    sure = {second: rng.uniform(0.6, 0.95) for second in goals}
    for i, look_ahead in enumerate(LOOK_AHEADS):
        seen = rng.permutation(len(goals)) < found[look_ahead] * len(goals)
        rows[[g for g, s in zip(goals, seen, strict=True) if s], 2 * i] = [
            p for p, s in zip(sure.values(), seen, strict=True) if s
        ]
        rows[list(fouls), 2 * i + 1] = 0.9
    false = [g + 4 for g in goals if rng.uniform() < alarms]
    rows[false, ::2] = rng.uniform(0.5, 0.9, (len(false), 1))
    actions = [Action("Goal", 1, g + 0.5) for g in goals] + [Action("Foul", 1, f + 0.5) for f in fouls]
    return rows, actions


def recorded(bundle: Bundle, found: Mapping[int, float], halves: int = 1, **changes: float) -> list[Recorded]:
    made = [planted(found, seed, **changes) for seed in range(halves)]  # type: ignore[arg-type]
    return [record(bundle, embeddings_of({"rows": rows}, bundle.manifest), actions) for rows, actions in made]


def outcome(manifest: Manifest, halves: Sequence[Recorded], label: str) -> Ranked:
    return rank(decided(manifest, halves), [half.actions for half in halves], LABELS)[label]


LATER_IS_BETTER = {0: 0.5, 1: 0.8, 3: 1.0}


def test_the_best_look_ahead_is_chosen_and_under_a_deadline_the_best_that_keeps_it(bundle: Bundle) -> None:
    halves = recorded(bundle, LATER_IS_BETTER)
    free = choose_settings(bundle.manifest, halves, Wish())
    assert (free["Goal"].look_ahead_s, free["Goal"].deadline_s) == (3, None)
    tight = choose_settings(bundle.manifest, halves, Wish(deadline_s=3.0))
    assert (tight["Goal"].look_ahead_s, tight["Goal"].deadline_s) == (1, 3.0)
    tighter = choose_settings(bundle.manifest, halves, Wish(deadline_s=1.4))
    assert tighter["Goal"].look_ahead_s == 0


def test_of_settings_that_are_as_good_the_soonest_wins(bundle: Bundle) -> None:
    halves = recorded(bundle, {0: 1.0, 1: 1.0, 3: 1.0})
    chosen = choose_settings(bundle.manifest, halves, Wish())
    assert [(chosen[label].look_ahead_s, chosen[label].radius_s) for label in LABELS] == [(0, 1.0)] * 2


def test_a_label_with_few_actions_takes_what_is_best_for_all_together(bundle: Bundle) -> None:
    """Fouls are seen at once, but where there are three of them the goals decide for both."""
    seldom, often = (
        choose_settings(bundle.manifest, recorded(bundle, LATER_IS_BETTER, foul_every=every), Wish())
        for every in (75, 12)
    )
    assert (seldom["Foul"].look_ahead_s, often["Foul"].look_ahead_s) == (3, 0)


def test_a_deadline_below_every_look_ahead_is_refused_with_the_smallest_one(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"a deadline of 0\.4 s cannot be kept; the smallest possible .* is 0\.5 s"):
        candidates(bundle.manifest, Wish(deadline_s=0.4))
    assert {d.look_ahead_s for d in candidates(bundle.manifest, Wish(deadline_s=1.5))} == {0, 1}


@settings(max_examples=25)
@given(
    right=st.lists(st.tuples(st.sampled_from([0.2, 0.4, 0.4, 0.6, 0.9]), st.booleans()), min_size=1, max_size=30),
    precision=st.floats(0.1, 1.0),
)
def test_no_lower_threshold_than_the_one_for_a_precision_reaches_it(
    right: list[tuple[float, bool]], precision: float
) -> None:
    right.sort(key=lambda r: -r[0])
    found = Ranked(np.array([c for c, _ in right]), np.array([r for _, r in right]), 10)
    given_points = points([found])

    def share(threshold: float) -> float:
        return float(found.right[found.confidences >= threshold].mean())

    assert all(share(p.threshold) == pytest.approx(p.precision) for p in given_points)
    point = at_precision(given_points, precision)
    lower = [c for c, _ in right if point is None or c < point.threshold]
    assert point is None or share(point.threshold) >= precision
    assert all(share(c) < precision for c in lower)


@pytest.mark.parametrize(
    ("right", "actions", "expected"),
    [([True, True, False], 2, 0.55), ([True, False, False], 1, 0.75), ([False, False, False], 0, 0.5), ([], 3, 0.5)],
)
def test_the_threshold_with_the_best_f1_is_chosen(right: list[bool], actions: int, expected: float) -> None:
    found = Ranked(np.array([0.9, 0.6, 0.5][: len(right)]), np.array(right, bool), actions)
    assert best_f1(points([found]), actions) == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["local-max", "greedy"])
@pytest.mark.parametrize("deadline_s", [None, 4.5])
def test_a_precision_asked_for_is_kept_by_the_words_themselves(
    bundle: Bundle, rule: str, deadline_s: float | None
) -> None:
    """Also where a deadline forces words, and what is forced depends on the threshold."""
    halves = recorded(bundle, {0: 0.5, 1: 0.8, 3: 0.9}, alarms=0.6)
    one = Decision(rule=rule, threshold=FLOOR, radius_s=3.0, window_s=6.0, deadline_s=deadline_s)
    manifest = everywhere(bundle.manifest, one)
    forced = [FORCED in word.flags for words in decided(manifest, halves) for word in words]
    assert any(forced) == (deadline_s is not None)
    share = {}
    for wish in (Wish(), Wish(precision=0.85)):
        chosen, lacking = choose_thresholds(manifest, halves, wish)
        decision = {label: one.model_copy(update={"threshold": chosen[label]}) for label in LABELS}
        found = outcome(manifest.model_copy(update={"decision": decision}), halves, "Goal")
        share[wish.precision] = found.right.mean()
        assert not lacking
    assert share[0.85] >= 0.85 > share[None]


def test_a_label_that_never_reaches_the_precision_is_named_and_takes_its_best_threshold(bundle: Bundle) -> None:
    halves = [
        replace(half, actions=[a for a in half.actions if a.label == "Foul"])
        for half in recorded(bundle, {0: 1, 1: 1, 3: 1}, foul_every=12)
    ]
    wrong = [replace(h, actions=[*h.actions, *(Action("Goal", 1, 14.5 + 8 * i) for i in range(9))]) for h in halves]
    choice = choose(bundle.manifest, wrong, Wish(precision=0.9, provisional_precision=None, calibrated=False))
    assert [note.split(":")[0] for note in choice.notes] == ["Goal"]
    assert "90%" in choice.notes[0]
    assert choice.decision["Foul"].threshold < 0.9


def test_words_before_it_is_settled_are_as_often_right_as_asked_and_else_there_are_none(bundle: Bundle) -> None:
    halves = recorded(bundle, {0: 1.0, 1: 1.0, 3: 0.7}, foul_every=12)
    lost = [replace(half, actions=[a for a in half.actions if a.label == "Foul"]) for half in halves]
    lost = [replace(h, actions=[*h.actions, *(Action("Goal", 1, 14.5 + 8 * i) for i in range(9))]) for h in lost]
    manifest = bundle.manifest.with_decision(threshold=0.4, look_ahead_s=3.0)
    for halves_, silent in ((halves, False), (lost, True)):
        chosen = choose_provisional(manifest, halves_, 0.75)
        assert (chosen["Goal"] is None) == silent
        assert chosen["Foul"] is not None
        decision = {
            label: manifest.decision[label].model_copy(update={"provisional_threshold": chosen[label]})
            for label in LABELS
        }
        share = kept(manifest.model_copy(update={"decision": decision}), halves_)
        assert all(value >= 0.75 for value in share.values())
        assert set(share) == ({"Foul"} if silent else {"Goal", "Foul"})


def kept(manifest: Manifest, halves: Sequence[Recorded]) -> dict[str, float]:
    """The share of each label's provisional spots that end confirmed and right."""
    ended: dict[str, list[bool]] = {}
    for half in halves:
        words = words_of(manifest, half)
        right = {spot.id for spot, is_right in verdicts(words, half.actions) if is_right}
        for word in words:
            if word.state == "provisional" and word.revision == 1:
                ended.setdefault(word.label, []).append(word.id in right)
    return {label: float(np.mean(ends)) for label, ends in ended.items()}


def test_a_head_with_one_look_ahead_speaks_while_it_waits_for_rivals(bundle: Bundle) -> None:
    manifest = bundle.manifest.with_decision(threshold=0.4, look_ahead_s=0.0)
    chosen = choose_provisional(manifest, recorded(bundle, {0: 1.0, 1: 0.0, 3: 0.0}), 0.9)
    assert chosen["Goal"] == 0.4  # below it nothing is said anyway


@settings(max_examples=20)
@given(seed=st.integers(0, 99), look_ahead=st.sampled_from([0, 1, 3]), deadline_s=st.sampled_from([None, 4.0]))
def test_scores_that_confirm_nothing_change_no_word(
    bundle: Bundle, seed: int, look_ahead: int, deadline_s: float | None
) -> None:
    rows = np.random.default_rng(seed).uniform(0, 1, (30, COLUMNS)).astype(np.float32)
    half = record(bundle, embeddings_of({"rows": rows}, bundle.manifest), ())
    manifest = bundle.manifest.with_decision(look_ahead_s=float(look_ahead), radius_s=2.0, deadline_s=deadline_s)
    decider = Decider(manifest, "recorded")
    plainly = [word for scores in half.scores for word in decider.push(scores)] + decider.flush()
    assert words_of(manifest, half) == plainly


def test_what_was_miscalibrated_is_less_so_afterwards_at_every_look_ahead(bundle: Bundle) -> None:
    """The head is as sure of its alarms as of what happens."""
    halves = recorded(bundle, {0: 0.3, 1: 0.7, 3: 1.0}, 2, alarms=0.9)
    choice = choose(bundle.manifest, halves)
    assert [r.look_ahead_s for r in choice.reliabilities] == list(LOOK_AHEADS)
    for one in choice.reliabilities:
        for before, after in (one.error, one.upper_error, one.errors["Goal"]):
            assert after < before
    for one, table in zip(choice.reliabilities, choice.calibrations, strict=True):
        ranked = calibrate(one.before["Goal"].confidences, table["Goal"])
        assert np.array_equal(ranked, one.after["Goal"].confidences)
    goals = [table["Goal"] for table in choice.calibrations]
    assert len(set(goals)) == 3


def test_the_calibration_error_is_the_distance_of_confidence_and_truth_bin_by_bin() -> None:
    found = Ranked(np.array([0.95, 0.95, 0.25, 0.05]), np.array([True, False, False, False]), 1)
    assert expected_calibration_error([found]) == pytest.approx((2 * 0.45 + 0.25 + 0.05) / 4)
    assert expected_calibration_error([found], first=1) == pytest.approx((2 * 0.45 + 0.25) / 3)


@given(st.floats(0.5, 5), st.floats(-3, 3))
def test_a_calibration_is_undone_by_its_inverse(temperature: float, shift: float) -> None:
    one = Calibration(temperature, shift)
    scores = np.array([0.0, 0.1, 0.5, 0.8])
    assert np.allclose(calibrate(calibrate(scores, one), one.inverse), scores, atol=1e-4)


def graph_of(path: Path, outputs: Mapping[str, tuple[int, ...]]) -> Path:
    """A graph that gives back what goes in."""

    def value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [helper.make_node("Identity", [f"in_{name}"], [name]) for name in outputs]
    ins = [value(f"in_{name}", shape) for name, shape in outputs.items()]
    graph = helper.make_graph(nodes, "g", ins, [value(name, shape) for name, shape in outputs.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    return path


def test_calibration_in_the_graph_equals_the_formula_at_every_look_ahead(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "head.onnx", {"scores": (1, 3), "early_scores": (1, 2, 3)})
    last = [Calibration(0.5, -1.0), Calibration(2.0, 0.5), UNCHANGED]
    early = [[Calibration(3.0, -2.0), UNCHANGED, Calibration(0.7, 0.1)], [Calibration(1.5, 1.0)] * 3]
    scores = np.array([[[0.0, 0.3, 0.9]], [[1e-9, 0.5, 1.0]]], np.float32)
    feeds = {"in_scores": scores[0], "in_early_scores": np.concatenate([scores, scores[::-1]], 1)[:1]}

    def said() -> list[np.ndarray]:
        out = OrtEngine(path).run(feeds)
        return [out["scores"][0], *out["early_scores"][0]]

    given_scores = [feeds["in_scores"][0], *feeds["in_early_scores"][0]]
    for _ in range(2):  # a second time in place of the first
        calibrate_graph(path, last, early)
        for found, raw, table in zip(said(), given_scores, [last, *early], strict=True):
            wanted = [calibrate(np.array(p, np.float64), c) for p, c in zip(raw, table, strict=True)]
            assert np.allclose(found, wanted, atol=2 * EDGE)
    calibrate_graph(path, [UNCHANGED] * 3, [[UNCHANGED] * 3] * 2)
    assert all(np.allclose(found, raw, atol=2 * EDGE) for found, raw in zip(said(), given_scores, strict=True))


def test_a_graph_without_early_scores_cannot_have_them_calibrated(tmp_path: Path) -> None:
    path = graph_of(tmp_path / "head.onnx", {"scores": (1, 1)})
    with pytest.raises(BundleError, match="no output early_scores"):
        calibrate_graph(path, [UNCHANGED], [[UNCHANGED]])


def test_where_all_spots_are_right_or_none_nothing_is_fitted() -> None:
    scores = np.array([0.2, 0.8])
    assert fit_calibration(scores, np.array([True, True])) == UNCHANGED
    assert fit_calibration(scores, np.array([False, False])) == UNCHANGED


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One match to choose on; there is no other split that could be looked at."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "league" / "season" / "match"
    folder.mkdir(parents=True)
    annotations = []
    for half in (1, 2):
        rows, actions = planted(LATER_IS_BETTER, half, foul_every=20, alarms=0.4)
        np.save(folder / f"{half}_planted.npy", rows)
        annotations += [
            {
                "gameTime": f"{half} - {int(a.time_s) // 60:02d}:{int(a.time_s) % 60:02d}",
                "label": a.label,
                "position": str(round(a.time_s * 1000)),
                "visibility": "visible",
            }
            for a in actions
        ]
    (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
    (root / "valid.txt").write_text("league/season/match\n")
    return root


def said_on(path: Path, data: Path) -> list[Spot]:
    opened = open_bundle(path)
    rows = [np.load(data / "league" / "season" / "match" / f"{half}_planted.npy") for half in (1, 2)]
    halves = [record(opened, embeddings_of({"rows": r}, opened.manifest), ()) for r in rows]
    return [word for half in halves for word in words_of(opened.manifest, half)]


def test_a_tuned_bundle_keeps_the_deadline_that_it_was_chosen_for(
    touchline_here: Touchline, bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    tuned, plot = tmp_path / "tuned", tmp_path / "reliability.svg"
    tune = ("tune", bundle.path, "--data", data, "--out", tuned, "--deadline", "3", "--plot", plot)
    ended = touchline_here(*tune)
    assert ended.code == 0, ended.err
    assert "expected calibration error" in ended.out
    assert plot.read_text().lstrip().startswith("<?xml")
    manifest = open_bundle(tuned).manifest
    assert {(d.deadline_s, d.look_ahead_s) for d in manifest.decision.values()} <= {(3.0, 0.0), (3.0, 1.0)}
    assert manifest.decision["Goal"].look_ahead_s == 1
    words = said_on(tuned, data)
    assert {w.state for w in words} >= {"provisional", "confirmed"}
    assert all(w.delay_s <= 3 for w in words if w.state != "provisional")
    curve = manifest.measured["valid"]["deadlines"]["tight"]  # type: ignore[index]
    assert list(curve) == ["1", "2", "3", "4", "5", "8", "16", "32", "64", "inf"]
    assert curve["1"] < 0.5 < curve["3"] == pytest.approx(curve["inf"], abs=0.01)

    (data / "unseen.txt").write_text((data / "valid.txt").read_text())
    more = ("--measure", "unseen")  # its deadline is its own by now
    again = touchline_here("tune", tuned, "--data", data, "--out", tmp_path / "again", *more)
    assert again.code == 0, again.err
    other = open_bundle(tmp_path / "again").manifest
    assert other.measured["unseen"] == other.measured["valid"] == manifest.measured["valid"]
    assert other.calibration == manifest.calibration
    assert other.early_calibration == manifest.early_calibration
    assert other.decision == manifest.decision


def test_the_calibrated_bundle_says_what_was_chosen_by(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    """Thresholds are chosen by confidences computed beside the graph; the graph gives the same."""
    from training.tune import decide

    path = tmp_path / "bundle"
    path.mkdir()
    (path / "head.onnx").write_bytes((bundle.path / "head.onnx").read_bytes())
    halves = recorded(bundle, LATER_IS_BETTER, alarms=0.5)
    choice = choose(bundle.manifest, halves)
    manifest = decide(path, bundle.manifest, choice)
    beside = calibrated(manifest, halves, choice.calibrations)
    inside = recorded(open_bundle(path), LATER_IS_BETTER, alarms=0.5)
    for one, other in zip(beside, inside, strict=True):
        for a, b in zip(one.scores, other.scores, strict=True):
            assert np.allclose(a.scores_C, b.scores_C, atol=1e-5)
    errors = measured(manifest, inside)["calibration_error"]
    for one_s, before_after in errors.items():  # type: ignore[attr-defined]
        wanted = next(r for r in choice.reliabilities if f"{r.look_ahead_s:g}" == one_s)
        assert np.allclose(before_after["all"], wanted.error, atol=0.02)
    assert Choice.of(manifest).calibrations == choice.calibrations
    assert Choice.of(manifest).decision == choice.decision


def test_the_greedy_rule_is_tuned_as_well(
    touchline_here: Touchline, bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    tuned = tmp_path / "tuned"
    ended = touchline_here(
        "tune", bundle.path, "--data", data, "--out", tuned, "--rule", "greedy", "--precision", "0.9"
    )
    assert ended.code == 0, ended.err
    manifest = open_bundle(tuned).manifest
    assert manifest.rule == "greedy"
    assert all(d.window_s for d in manifest.decision.values())
    kept_rule = touchline_here("tune", tuned, "--data", data, "--no-calibration")
    assert kept_rule.code == 0, kept_rule.err
    assert (open_bundle(tuned).manifest.rule, open_bundle(tuned).manifest.calibration) == ("greedy", {})


@pytest.mark.parametrize(
    ("more", "code", "complaint"),
    [
        (("--deadline", "0.4"), 1, "a deadline of 0.4 s cannot be kept; the smallest possible"),
        (("--plot", "picture.txt"), 2, "neither .png nor .svg"),
        (("--split", "test"), 1, "test.txt"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    touchline_here: Touchline,
    bundle: Bundle,
    data: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    code: int,
    complaint: str,
) -> None:
    ended = touchline_here("tune", bundle.path, "--data", data, "--out", tmp_path / "tuned", *more)
    assert ended.code == code
    assert complaint in ended.complaint
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--deadline", "0", "seconds above 0 and up to 600"),
        ("--precision", "1.5", "a share above 0 and up to 1"),
        ("--provisional-precision", "much", "a share above 0 and up to 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    capsys: pytest.CaptureFixture[str], option: str, value: str, complaint: str
) -> None:
    parser = argparse.ArgumentParser()
    tune_command.add_arguments(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["bundle", "--data", "data", option, value])
    assert complaint in capsys.readouterr().err
