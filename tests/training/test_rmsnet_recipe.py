"""RMS-Net from feature files to a bundle: clips, learning rate, and above all where its answers are placed."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Touchline
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engines.actions import Action
from engines.bundle import FORMAT_VERSION, Bundle, Decision, Manifest, ModalityStream, open_bundle
from engines.frontend import embeddings_of
from engines.labels import SOCCERNET_LABELS
from training.calibrate import Calibration, calibrate
from training.clip_task import ClipTask, answers, clips_of
from training.data.features import LoadedHalf
from training.export import write_head_bundle
from training.fit import Training
from training.measure import scored, spot
from training.models.rmsnet import RmsNet
from training.recipes.clips import ClipRecipe
from training.recipes.papers import recipes, rmsnet

GOAL = SOCCERNET_LABELS.index("Goal")
WIDTH = 16


def half(length: int, actions: Mapping[float, str], rate: int = 1, width: int = WIDTH) -> LoadedHalf:
    """A half whose rows say their own number in column 0; a row of zeros alone would be one without a picture."""
    rows = np.zeros((length, width), np.float32)
    rows[:, 0], rows[:, 1] = np.arange(length), 1
    labelled = tuple(Action(label, 1, time_s) for time_s, label in actions.items())
    return LoadedHalf("a", 1, rate, labelled, {"visual": rows})


def recipe(**changes: object) -> ClipRecipe:
    return replace(rmsnet(small=True), **changes)  # type: ignore[arg-type]


def task(train: list[LoadedHalf], chosen: ClipRecipe, seed: int = 1) -> ClipTask:
    net = RmsNet(chosen.config({"visual": train[0].rows["visual"].shape[1]}))
    return ClipTask(
        batch=chosen.batch,
        clips=chosen.clips,
        training=chosen.training,
        net=net,
        train=train,
        valid=train,
        labels=chosen.labels,
        seed=seed,
        optimizer=chosen.optimizer,
    )


def counts(columns: Tensor) -> dict[int, int]:
    return {c: n for c, n in enumerate(torch.bincount(columns).tolist()) if n}


def pointing(chosen: ClipRecipe, place: float) -> RmsNet:
    """A network that says of every clip: a goal, in its row `place`."""
    net = RmsNet(chosen.config({"visual": WIDTH}))
    offset = (place + 0.5) / chosen.rows
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.out.bias[1 + GOAL] = 5
        net.offset.bias.fill_(float(np.log(offset / (1 - offset))))
    return net.eval()


def bundle_of(path: Path, chosen: ClipRecipe, net: RmsNet) -> Bundle:
    rate = 2 if chosen.features == "resnet2048" else 1
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="rmsnet",
        labels=chosen.labels,
        streams=(ModalityStream(name="visual", modality="visual", file=None, features="x", rate=rate, width=WIDTH),),
        head=chosen.spec(),
        decision={label: Decision(threshold=0.5, radius_s=1.0) for label in chosen.labels},
        sha256={},
    )
    write_head_bundle(path, chosen.head(net), manifest)
    return open_bundle(path)


@pytest.mark.parametrize(
    ("features", "rate", "rows", "place"),
    [
        ("resnet2048", 2, 41, 0),
        ("resnet2048", 2, 41, 33),
        ("demo", 1, 11, 10),
        ("demo", 1, 11, 2.25),
        ("demo", 1, 10, 0),
        ("demo", 1, 10, 9),
    ],
)
def test_a_clip_that_points_at_a_row_gives_the_time_of_that_rows_middle(
    tmp_path: Path, features: str, rate: int, rows: int, place: float
) -> None:
    chosen = recipe(features=features, rows=rows)
    net, one = pointing(chosen, place), half(60, {}, rate)
    first_rows = np.arange(60) - rows // 2  # of the clips, before the ends repeat; see `scoring_windows`
    wanted_us = np.maximum((first_rows + place + 0.5) / rate * 1e6, 0)
    with torch.no_grad():
        offline = task([half(60, {}, rate)], chosen).score(net, one)
    opened = bundle_of(tmp_path / "bundle", chosen, net)
    live = scored(opened, embeddings_of(one.rows, opened.manifest), ())
    for found in (offline, live):
        assert found.times_TC.shape == found.scores_TC.shape == (60, 17)
        assert np.abs(found.times_TC - wanted_us[:, None]).max() <= 1000
        assert found.scores_TC.argmax(1).tolist() == [GOAL] * 60


@given(row=st.integers(0, 79), rows=st.integers(2, 41), rate=st.sampled_from([1, 2]))
def test_a_network_that_learned_its_clips_places_every_clip_of_an_action_at_the_action(
    row: int, rows: int, rate: int
) -> None:
    chosen = recipe(rows=rows)
    clips = clips_of([half(80, {(row + 0.3) / rate: "Goal"}, rate)], chosen.labels, rows)
    held, net = clips.columns_N == 1 + GOAL, pointing(chosen, 0)
    assert held.sum() == rows
    for start, offset in zip(clips.starts_N[held], clips.offsets_N[held], strict=True):
        net.offset.bias.data.fill_(float(np.log(offset / (1 - offset))))
        _, displacement_BC = answers(net, {"visual": torch.zeros(1, rows, WIDTH)}, rate)
        row_time_s = (start + rows // 2 + 0.5) / rate  # of the row that the clip is for live
        assert row_time_s + displacement_BC[0, 0].item() == pytest.approx((row + 0.5) / rate, abs=1e-4)
        assert abs(displacement_BC[0, 0].item()) <= (rows // 2 + 0.5) / rate


class BrightRow(RmsNet):
    """Says of a clip: a goal, in the row with the largest number, if that is above 0."""

    def logits_and_offset(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        brightest, place = rows["visual"][:, :, 0].max(1)
        goal = torch.zeros(18)
        goal[1 + GOAL] = 10
        return brightest[:, None] * goal, (place + 0.5) / self.config.rows


@pytest.mark.parametrize("rows", [10, 11])
def test_all_clips_that_see_an_action_make_one_spot_at_its_time_and_before_the_promise(
    tmp_path: Path, rows: int
) -> None:
    chosen = recipe(rows=rows)
    bundle = bundle_of(tmp_path / "bundle", chosen, BrightRow(chosen.config({"visual": WIDTH})))
    one = np.zeros((60, WIDTH), np.float32)
    one[[3, 30, 58], 0] = one[:, 1] = 1
    spots = spot(bundle, embeddings_of({"visual": one}, bundle.manifest))
    assert [(s.label, s.media_time) for s in spots] == [("Goal", 3.5), ("Goal", 30.5), ("Goal", 58.5)]
    promise_s = rows - 1 - rows // 2 + (rows // 2 + 0.5) + 1 + 0.5
    assert max(s.delay_s for s in spots) <= bundle.manifest.promised_delay_s("Goal") == promise_s


def test_clips_hold_the_rows_they_are_said_to_hold() -> None:
    chosen = recipe(rows=11, clips=200)
    one = half(150, {20.7: "Goal", 110.2: "Foul"})
    batches = list(task([one], chosen).batches(1))
    for batch in batches:
        for rows, column, offset in zip(batch.rows["visual"], batch.columns, batch.offsets, strict=True):
            seen = rows[:, 0].numpy()
            if column == 0:
                assert np.abs(seen[:, None] - [20, 110]).min() > 11
                assert np.array_equal(np.diff(seen), np.ones(10))
                continue
            place = int(np.floor(offset.item() * 11))
            assert seen[place] == (20 if column == 1 + GOAL else 110)
            assert not seen[:place].any() or np.array_equal(np.diff(seen), np.ones(10))  # hidden before it, or whole
    columns = torch.cat([batch.columns for batch in batches])
    foul = 1 + SOCCERNET_LABELS.index("Foul")
    assert counts(columns) == {0: 200, 1 + GOAL: 200, foul: 200}


def test_a_label_is_as_frequent_as_any_other_though_its_halves_are_read_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    halves = [half(300, {50.0 * i: "Goal" if i else "Foul" for i in range(5)}) for _ in range(3)]
    monkeypatch.setattr("training.clip_task.blocks", lambda halves, seed, epoch: ([one] for one in halves))
    columns = torch.cat([batch.columns for batch in task([*halves, half(300, {150: "Goal"})], recipe()).batches(1)])
    found = counts(columns)
    assert len(found) == 3
    assert all(abs(count - 100) <= 2 for count in found.values())


def test_actions_beyond_the_features_end_and_halves_without_any_clip_are_no_trouble() -> None:
    short = half(6, {9.0: "Goal"})
    one = task([half(100, {50: "Goal"}), short], recipe())
    assert clips_of([short], SOCCERNET_LABELS, 11).starts_N.tolist() == []
    with torch.no_grad():
        assert set(one.validate(one.net.eval())) == {"score", "loss"}
    assert sum(1 for _ in one.batches(1)) == 7  # of 32, for 100 goals and 100 times nothing


def test_an_epochs_clips_depend_on_seed_and_epoch_alone() -> None:
    halves = [half(200, {40: "Goal", 130: "Foul"})]
    first, again, other = (next(iter(task(halves, recipe(), seed).batches(3))) for seed in (1, 1, 2))
    for x, y in ((first.rows["visual"], again.rows["visual"]), (first.offsets, again.offsets)):
        assert torch.equal(x, y)
    assert not torch.equal(first.rows["visual"], other.rows["visual"])


def test_the_learning_rate_rises_for_an_epoch_and_falls_to_nothing() -> None:
    one = task([half(200, {50: "Goal"})], recipe(training=Training(epochs=4), learning_rate=1.0))
    optimizer = one.optimizer(one.net)
    schedule = one.schedule(optimizer)
    rates = []
    for _ in range(4 * 7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:7] == pytest.approx([i / 7 for i in range(1, 8)])
    assert rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[7 + 10] == pytest.approx(0.5, abs=0.05)
    assert 0 < rates[-1] < 0.02
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_the_published_recipe_is_the_originals() -> None:
    chosen = recipes()["rmsnet"]()
    assert isinstance(chosen, ClipRecipe)
    with torch.device("meta"):
        net = RmsNet(chosen.config({"visual": 2048}))
    assert sum(p.numel() for p in net.parameters()) == 10_652_947
    (group,) = chosen.optimizer(net).param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.002, 0.9, 1e-4)
    assert (chosen.batch, chosen.clips, chosen.training.epochs, chosen.rows) == (24, 1000, 50, 41)
    spec = chosen.spec()
    assert (spec.look_ahead_s, spec.max_displacement_s, spec.row_time_s) == (10.0, 10.25, 0.25)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One match a split; a row a second says what happens, half a minute lies between two actions."""
    root = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        folder = root / "league" / "season" / split
        folder.mkdir(parents=True)
        annotations = []
        for part in (1, 2):
            rows = rng.standard_normal((300, 64)).astype(np.float32) * 0.1
            for i, second in enumerate(range(15, 290, 38)):
                label = (i + part) % 4
                rows[second, label * 16 : label * 16 + 16] += 3
                annotations.append(
                    {
                        "gameTime": f"{part} - {second // 60:02d}:{second % 60:02d}",
                        "label": SOCCERNET_LABELS[label],
                        "position": str(second * 1000 + 400),
                        "visibility": "visible",
                    }
                )
            np.save(folder / f"{part}_demo_visual.npy", rows)
        (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
        (root / f"{split}.txt").write_text(f"league/season/{split}\n")
    return root


def test_trained_on_what_rows_show_its_bundle_finds_the_actions_to_the_second_and_says_what_the_network_says(
    touchline_here: Touchline, features: Path, tmp_path: Path
) -> None:
    bundle, results = tmp_path / "bundle", tmp_path / "results"
    data = ("--data", features, "--out", bundle)
    ended = touchline_here("train", "small-rmsnet", *data, "--epochs", "12", "--accelerator", "cpu")
    assert ended.code == 0, ended.err
    assert touchline_here("spot", features, "--bundle", bundle, "--out", results).code == 0
    ended = touchline_here("evaluate", results, "--labels", features, "--metric", "tight", "--json")
    assert json.loads(ended.out)["a_mAP_occurring"] > 0.7

    halves = recipe().halves(features, "test")
    trained = recipe().task(halves, halves, 1)
    trained.net.load_state_dict(torch.load(tmp_path / "bundle.run" / "best.ckpt", weights_only=True)["net"])
    one = halves[0].load()
    with torch.no_grad():
        wanted = trained.score(trained.net.eval(), one)
    opened = open_bundle(bundle)
    live = scored(opened, embeddings_of(one.rows, opened.manifest), one.actions)
    assert np.abs(live.times_TC - wanted.times_TC).max() <= 1000
    calibration = open_bundle(bundle).manifest.calibration
    for c, label in enumerate(SOCCERNET_LABELS[:4]):
        confidences = calibrate(wanted.scores_TC[:, c], Calibration(**calibration[label]))
        assert np.allclose(live.scores_TC[:, c], confidences, atol=1e-3)
