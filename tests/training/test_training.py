"""The recipe from data to bundle, on two tiny matches made here."""

import argparse
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from command import Touchline

from engines.actions import Action
from engines.bundle import open_bundle
from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from engines.second import Second
from engines.spotter import Spotter
from training import export_command, train
from training.data.clips import ClipSampler, row_targets
from training.data.soccernet import Half
from training.export import ParityError, write_bundle
from training.models.spotter import DemoNet, score
from training.recipes import RECIPES
from training.recipes.demo import DemoRecipe, demo


def action(label: str, time_s: float) -> Action:
    return Action(label, 1, time_s)


def make_half(recipe: DemoRecipe, seconds: int, seed: int = 0) -> Half:
    rng = np.random.default_rng(seed)
    p = recipe.pictures
    pictures = rng.integers(0, 256, (seconds * p.rate, p.height, p.width, 3), np.uint8)
    samples = rng.integers(-8000, 8000, seconds * 16_000, np.int16)
    return Half("match", 1, p, pictures, samples, (action("Goal", 3.3), action("Foul", 7.9)))


def test_the_rows_around_an_action_are_positive_and_say_how_far_off_it_is() -> None:
    targets, shift = row_targets([action("Goal", 3.3)], SOCCERNET_LABELS, 0.0, 6, reach_s=1.0)
    goal = SOCCERNET_LABELS.index("Goal")
    assert targets[:, 1 + goal].tolist() == [0, 0, 1, 1, 0, 0]
    assert targets[:, 0].tolist() == [1, 1, 0, 0, 1, 1]
    np.testing.assert_allclose(shift[:, goal], [0, 0, 0.8, -0.2, 0, 0], atol=1e-6)


def test_of_two_actions_of_a_label_a_row_points_to_the_nearer() -> None:
    actions = [action("Goal", 3.0), action("Goal", 3.6)]
    _, shift = row_targets(actions, SOCCERNET_LABELS, 0.0, 6, reach_s=1.0)
    np.testing.assert_allclose(shift[[2, 3], SOCCERNET_LABELS.index("Goal")], [0.5, 0.1], atol=1e-6)


def test_targets_move_with_the_start_of_the_clip() -> None:
    targets, _ = row_targets([action("Goal", 3.3)], SOCCERNET_LABELS, 2.8, 2, reach_s=1.0)
    assert targets[:, 1 + SOCCERNET_LABELS.index("Goal")].tolist() == [1, 0]


def test_the_same_seed_draws_the_same_clips() -> None:
    half = make_half(demo(), 20)
    settings = {"clips": 1, "clip_s": 6, "reach_s": 1.0, "audio_dropped": 0.1, "video_dropped": 0.1}

    def draw(seed: int) -> torch.Tensor:
        return ClipSampler([half], SOCCERNET_LABELS, **settings, seed=seed).batch().pictures  # type: ignore[arg-type]

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_the_bundle_scores_a_recording_as_the_network_does(tmp_path: Path) -> None:
    """Front ends, window and head in ONNX Runtime, second by second, equal torch on the whole half."""
    torch.manual_seed(0)
    net = DemoNet(demo()).eval()
    assert net.head.displacement is not None
    torch.nn.init.normal_(net.head.displacement.weight, std=0.1)
    half = make_half(demo(), 9)
    write_bundle(net, tmp_path, {})
    spotter = Spotter(open_bundle(tmp_path), "s")
    rate = half.spec.rate
    sound = (half.samples_S / np.float32(32767)).astype(np.float32).reshape(9, 16_000)
    seconds = [
        Second(
            0,
            k,
            half.pictures_THWC[k * rate : (k + 1) * rate],
            sound[k],
        )
        for k in range(9)
    ]
    found = [s for second in seconds for s in spotter.score(second)] + spotter.flush_scores()
    expected = score(net, half)
    np.testing.assert_allclose(np.stack([s.scores_C for s in found]), expected.scores_TC, atol=1e-5)
    times = np.array([[max(s.index + 0.5 + d, 0) for d in s.displacement_C.tolist()] for s in found])
    np.testing.assert_allclose(times, expected.times_TC / 1e6, atol=2e-3)


def test_a_graph_that_differs_from_the_checkpoint_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.export.TOLERANCE", -1.0)
    with pytest.raises(ParityError, match="differs from the checkpoint"):
        write_bundle(DemoNet(demo()), tmp_path, {})


def write_match(folder: Path, seconds: int = 6) -> None:
    """Write a match of two halves with picture, sound and a label each."""
    folder.mkdir(parents=True)
    for half in (1, 2):
        with av.open(str(folder / f"{half}.mp4"), "w") as out:
            video = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
            sound = out.add_stream("aac", rate=48_000, layout="mono")
            rng = np.random.default_rng(half)
            for i in range(25 * seconds):
                frame = av.VideoFrame.from_ndarray(rng.integers(0, 256, (90, 160, 3), np.uint8), format="rgb24")
                out.mux(video.encode(frame))
                noise = rng.uniform(-0.3, 0.3, (1, 1920)).astype(np.float32)
                block = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
                block.sample_rate, block.pts = 48_000, i * 1920
                out.mux(sound.encode(block))
            out.mux(video.encode(None))
            out.mux(sound.encode(None))
    labels = [
        {"gameTime": f"{half} - 00:0{5 - half}", "label": "Goal", "position": f"{4000 + half}", "visibility": "visible"}
        for half in (1, 2)
    ]
    (folder / "Labels-v2.json").write_text(json.dumps({"annotations": labels}))


@pytest.fixture
def matches(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    write_match(root / "league" / "season" / "a - b")
    for split in ("train", "valid", "test"):
        (root / f"{split}.txt").write_text("league/season/a - b\n")
    return root


def digests(bundle: Path) -> list[str]:
    return [hashlib.sha256((bundle / f).read_bytes()).hexdigest() for f in ("visual.onnx", "audio.onnx", "head.onnx")]


@pytest.mark.timeout(240)  # two whole trainings
def test_the_recipe_gives_the_same_bundle_twice(touchline: Touchline, matches: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        out = tmp_path / name
        done = touchline(
            "train", "demo", "--data", matches, "--out", out, "--cache", tmp_path / "cache", "--steps", "2"
        )
        assert done.code == 0, done.err
        manifest = open_bundle(out).manifest
        assert set(manifest.measured) == {"valid", "test"}
        assert manifest.provenance["seed"] == demo().seed
        assert manifest.provenance["options"] == {"steps": 2}
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


@pytest.mark.timeout(240)  # three exports, each measured
def test_a_checkpoint_gives_the_run_s_bundle_again(
    matches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exported, and when the run, ended already, is resumed."""
    monkeypatch.setitem(RECIPES, "demo", lambda: replace(demo(), clips=1, clip_s=6, threads=1))
    where = ("--data", str(matches), "--cache", str(tmp_path / "cache"))
    run = ("--run", str(tmp_path / "run"))
    here(train, "demo", *where, *run, "--out", str(tmp_path / "trained"), "--steps", "1")
    here(train, "demo", *where, *run, "--out", str(tmp_path / "resumed"), "--resume")
    here(export_command, str(tmp_path / "run" / "last.ckpt"), *where, "--out", str(tmp_path / "exported"))
    trained = digests(tmp_path / "trained")
    assert trained == digests(tmp_path / "resumed") == digests(tmp_path / "exported")


def here(command: ModuleType, *arguments: str) -> None:
    """Run a command in this process."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert command.run(parser.parse_args(arguments)) == 0


def test_training_without_data_is_one_sentence(touchline: Touchline, tmp_path: Path) -> None:
    done = touchline("train", "demo", "--data", tmp_path / "absent", "--out", tmp_path / "out")
    assert done.code == 2
    assert "no such folder" in done.complaint
    (tmp_path / "empty").mkdir()
    done = touchline("train", "demo", "--data", tmp_path / "empty", "--out", tmp_path / "out")
    assert done.code == 1
    assert "train.txt" in done.complaint
    with pytest.raises(UsageError, match=r"last\.ckpt: there is no such checkpoint"):
        here(train, "demo", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "out"), "--resume")


def test_the_recipes_are_listed_without_data(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        here(train, "--list")
    out = capsys.readouterr().out
    assert "demo" in out
    assert "HMTAS" in out


def test_a_variant_of_a_recipe_is_a_replacement() -> None:
    assert replace(demo(), look_ahead_rows=2).rows == demo().rows - 2
