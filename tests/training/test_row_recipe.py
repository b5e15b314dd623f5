"""HMTAS for deciding live: windows as the live path has them, and what each look-ahead sees, learns and says."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Touchline
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.actions import Action
from engines.bundle import FORMAT_VERSION, Bundle, Decision, Manifest, ModalityStream, open_bundle
from engines.errors import UsageError
from engines.frontend import embeddings_of
from engines.labels import SOCCERNET_LABELS
from engines.window import RollingWindow
from training.data.features import LoadedHalf
from training.export import write_head_bundle
from training.fabric import FabricOptions
from training.fit import Fitted, Training, fit, prepare_torch
from training.measure import scored
from training.models.hmtas import CLASS_WEIGHTS, Hmtas, weighted_nll
from training.recipes import RECIPES, Options
from training.recipes.live import RowRecipe, hmtas_live
from training.row_task import RowBatch, RowTask, unweighted, windows_around
from training.scoring import Scored

CPU = FabricOptions(accelerator="cpu")
WIDTHS = {"visual": 6, "audio": 4}
LABELS = ("Goal", "Foul")


class Half(LoadedHalf):
    """A half in memory that a recipe can look at."""

    @property
    def widths(self) -> dict[str, int]:
        return {name: x.shape[1] for name, x in self.rows.items()}


def half(length: int, actions: Mapping[float, str] | None = None, seed: int = 0, rate: int = 1) -> Half:
    rng = np.random.default_rng(seed)
    rows = {name: rng.standard_normal((length, width)).astype(np.float32) for name, width in WIDTHS.items()}
    labelled = tuple(Action(label, 1, time_s) for time_s, label in (actions or {}).items())
    return Half("a", 1, rate, labelled, rows)


def recipe(**changes: Any) -> RowRecipe:
    small: dict[str, Any] = {
        "d_model": 16,
        "heads": 2,
        "layers": 1,
        "feed_forward": 16,
        "look_behind_rows": 3,
        "look_aheads": (0, 1, 3),
        "batch": 16,
        "distil_share": 0.5,
        "training": Training(epochs=3, threads=1, keep="last", ema_decay=0.9),
    }
    return replace(hmtas_live(small=True), **{**small, **changes})


def task(chosen: RowRecipe, train: list[Half], seed: int = 1) -> RowTask:
    torch.manual_seed(seed)
    return chosen.task(train, train, seed)  # type: ignore[arg-type]


def bundle_of(path: Path, chosen: RowRecipe, net: Hmtas) -> Bundle:
    streams = tuple(
        ModalityStream(name=n, modality="visual" if n == "visual" else "audio", file=None, features=n, width=w)
        for n, w in net.config.widths.items()
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="live",
        labels=chosen.labels,
        streams=streams,
        head=chosen.spec(),
        decision={label: Decision(threshold=0.5, radius_s=1.0) for label in chosen.labels},
        sha256={},
    )
    write_head_bundle(path, chosen.head(net.eval()), manifest)
    return open_bundle(path)


def same_batch(one: RowBatch, other: RowBatch) -> bool:
    tensors = [(x, other.rows[name]) for name, x in one.rows.items()]
    tensors += [(one.targets, other.targets), (one.shift, other.shift)]
    return one.look_aheads == other.look_aheads and all(torch.equal(x, y) for x, y in tensors)


def some_halves() -> list[Half]:
    return [half(60, {10.2: "Goal", 40.7: "Foul"}), half(37, {0.1: "Goal", 36.9: "Foul"}, seed=1)]


def test_an_epochs_batches_depend_on_seed_and_epoch_alone() -> None:
    first, again, other = (list(task(recipe(), some_halves(), seed).batches(2)) for seed in (1, 1, 2))
    assert all(map(same_batch, first, again))
    assert not any(map(same_batch, first, other))
    assert not any(map(same_batch, first, task(recipe(), some_halves()).batches(3)))


class Stopped(BaseException):
    """What kills a run, without a chance to tidy up."""


def fitted(folder: Path, chosen: RowRecipe, stop_at: int | None = None, resume: bool = False) -> Fitted:
    prepare_torch(chosen.training)
    one = task(chosen, some_halves(), chosen.training.seed)
    whole, epochs = one.batches, []

    def batches(epoch: int) -> Iterator[RowBatch]:
        epochs.append(epoch)
        for i, batch in enumerate(whole(epoch)):
            if epoch == stop_at and i == 2:
                raise Stopped
            yield batch

    one.batches = batches  # type: ignore[method-assign]
    return fit(one, chosen.training, folder, fabric_options=CPU, resume=resume)


@pytest.mark.parametrize("stop_at", [2, 3])
def test_a_run_killed_and_resumed_gives_the_same_weights_and_history(tmp_path: Path, stop_at: int) -> None:
    straight = fitted(tmp_path / "straight", recipe())
    with pytest.raises(Stopped):
        fitted(tmp_path / "killed", recipe(), stop_at)
    after = fitted(tmp_path / "killed", recipe(), resume=True)
    assert straight.history == after.history
    states = straight.net.state_dict(), after.net.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert {f"valid_{key}" for key in ("score", "score_0", "score_1", "score_3", "loss")} <= set(after.history[-1])
    of_each = [after.history[-1][f"valid_score_{k}"] for k in (0, 1, 3)]
    assert after.history[-1]["valid_score"] == pytest.approx(np.mean(of_each))


@settings(max_examples=30)
@given(length=st.integers(1, 30), behind=st.integers(0, 5), ahead=st.integers(0, 6), rate=st.sampled_from([1, 2]))
def test_training_sees_the_windows_of_the_live_path_to_both_ends(
    length: int, behind: int, ahead: int, rate: int
) -> None:
    one = half(length, rate=rate)
    chosen = recipe(look_behind_rows=behind, look_aheads=(ahead,), features="demo" if rate == 1 else "resnet")
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="live",
        labels=LABELS,
        streams=tuple(
            ModalityStream(name=n, modality="other", file=None, features=n, rate=rate, width=w)
            for n, w in WIDTHS.items()
        ),
        head=chosen.spec(),
        decision={label: Decision(threshold=0.5, radius_s=1.0) for label in LABELS},
        sha256={},
    )
    rolling = RollingWindow(manifest)
    live = [window for e in embeddings_of(one.rows, manifest) for window in rolling.push(e)] + rolling.flush()
    offline = windows_around([one], np.zeros(length, np.int64), np.arange(length), behind, ahead)
    assert [row for window in live for row in window.scored] == list(range(length))
    for name, x in offline.items():
        assert np.array_equal(x, np.stack([window.rows_LD[name] for window in live]))


def test_a_batchs_targets_are_of_the_row_it_scores_and_a_stream_is_missing_at_times() -> None:
    one = half(200, {50.9: "Goal"})
    for name, x in one.rows.items():
        x[:, 0] = np.arange(200) + 1000 * (name == "audio")
    chosen = recipe(stream_dropped=0.25, target_reach_s=0.75)
    batches = [batch for epoch in range(1, 9) for batch in task(chosen, [one]).batches(epoch)]
    missing = []
    for batch in batches:
        for rows, target, shift in zip(batch.rows["visual"], batch.targets, batch.shift, strict=True):
            missing.append(not rows.any())
            if not missing[-1] and rows[3, 0] == 50:
                assert target[1 + SOCCERNET_LABELS.index("Goal")] == 1
                assert shift[SOCCERNET_LABELS.index("Goal")] == pytest.approx(0.4)
            elif not missing[-1] and rows[3, 0] != 51:
                assert target.tolist() == [1] + 17 * [0]
    assert 0.2 < np.mean(missing) < 0.3
    assert {batch.look_aheads for batch in batches} == {(3, 0), (3, 1)}


def test_rows_after_the_look_ahead_change_nothing_offline_and_live(tmp_path: Path) -> None:
    chosen, one = recipe(), half(20)
    trained = task(chosen, [one])
    net = trained.net.eval()
    assert isinstance(net, Hmtas)
    assert net.displacement is not None
    torch.nn.init.normal_(net.displacement.weight)
    opened = bundle_of(tmp_path, chosen, net)
    for look_ahead in chosen.look_aheads:

        def said(rows: Half, look_ahead: int = look_ahead) -> list[Scored]:
            with torch.no_grad():
                offline = trained.score(net, rows, look_ahead)
            return [offline, scored(opened, embeddings_of(rows.rows, opened.manifest), (), look_ahead)]

        before = said(one)
        for row in (0, 12):
            later = half(20, seed=5)
            for name, x in later.rows.items():
                x[: row + look_ahead + 1] = one.rows[name][: row + look_ahead + 1]
            for found, other in zip(before, said(later), strict=True):
                assert np.allclose(found.scores_TC[row], other.scores_TC[row], atol=1e-6)
                assert np.abs(found.times_TC[row] - other.times_TC[row]).max() <= 1000
                assert not np.allclose(found.scores_TC[19], other.scores_TC[19], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [
        ({}, {"scores", "displacement", "early_scores", "early_displacement"}),
        ({"export_look_aheads": (0, 1)}, {"scores", "displacement", "early_scores", "early_displacement"}),
        ({"export_look_aheads": (1,)}, {"scores", "displacement"}),
        ({"max_displacement_s": 0.0}, {"scores", "early_scores"}),
        ({"look_aheads": (2,)}, {"scores", "displacement"}),
        ({"look_aheads": (0,), "max_displacement_s": 0.0}, {"scores"}),
    ],
)
def test_a_bundle_says_live_what_its_network_says_at_each_look_ahead(
    tmp_path: Path, changes: dict[str, Any], outputs: set[str]
) -> None:
    chosen, one = recipe(**changes), half(25)
    trained = task(chosen, [one])
    net = trained.net.eval()
    assert isinstance(net, Hmtas)
    if net.displacement is not None:
        torch.nn.init.normal_(net.displacement.weight)
    opened = bundle_of(tmp_path, chosen, net)
    assert set(opened.head.outputs) == outputs
    exported = chosen.export_look_aheads or chosen.look_aheads
    assert opened.manifest.look_aheads_s == exported
    for look_ahead in exported:
        with torch.no_grad():
            wanted = trained.score(net, one, look_ahead)
        live = scored(opened, embeddings_of(one.rows, opened.manifest), (), look_ahead)
        assert np.allclose(live.scores_TC, wanted.scores_TC, atol=1e-5)
        assert np.abs(live.times_TC - wanted.times_TC).max() <= 1000
    largest = scored(opened, embeddings_of(one.rows, opened.manifest), ())
    assert np.array_equal(largest.scores_TC, live.scores_TC)


def test_a_planted_action_is_learnt_and_only_where_its_evidence_can_be_seen() -> None:
    """What happened shows two rows later: with 2 rows of look-ahead it is found, with none it can only be guessed."""
    rng, halves = np.random.default_rng(0), []
    for seed in range(3):
        rows = rng.permutation(np.arange(5, 190, 5))[:24]
        one = half(200, {row + 0.5: LABELS[i % 2] for i, row in enumerate(rows)}, seed=seed)
        one.rows["visual"][:] *= 0.1
        one.rows["visual"][rows + 2, np.arange(24) % 2] += 2
        halves.append(one)
    easy: dict[str, Any] = {"streams": ("visual",), "row_dropout": 0.0, "stream_dropped": 0.0, "dropout": 0.0}
    sizes: dict[str, Any] = {"d_model": 32, "look_behind_rows": 1, "look_aheads": (0, 2), "batch": 64}
    chosen = recipe(**easy, **sizes, learning_rate=1e-2, labels=LABELS, training=Training(steps=150, threads=1))
    prepare_torch(chosen.training)
    learner = task(chosen, halves[:2])
    learner.valid = halves[2:]
    optimizer = learner.optimizer(learner.net)
    schedule = learner.schedule(optimizer)
    for epoch in range(1, 26):  # 6 steps each
        for batch in learner.batches(epoch):
            optimizer.zero_grad()
            learner.loss(learner.net, batch)[0].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        found = learner.validate(learner.net.eval())
    assert found["score_2"] > 0.9
    assert found["score_0"] < 0.5


@given(q=st.floats(0.01, 0.99), weight=st.floats(1, 30))
def test_what_the_largest_look_ahead_teaches_is_what_makes_the_loss_least_at_its_own_score(
    q: float, weight: float
) -> None:
    weights, p = torch.tensor([weight]), torch.tensor([[q]], requires_grad=True)
    weighted_nll(p, unweighted(p.detach(), weights), weights).backward()  # type: ignore[no-untyped-call]
    assert p.grad is not None
    assert abs(p.grad.item()) < 1e-3 * weight


def test_with_distillation_off_the_truth_alone_is_taught() -> None:
    losses = []
    for share in (0.0, 1.0):
        one = task(recipe(distil_share=share, row_dropout=0.0), some_halves())
        batch = next(iter(one.batches(1)))
        one.net.eval()
        alone = [one.loss(one.net, batch._replace(look_aheads=(k,)))[0].item() for k in batch.look_aheads]
        losses.append((one.loss(one.net, batch)[0].item(), np.mean(alone)))
    assert losses[0][0] == pytest.approx(losses[0][1])
    assert losses[1][0] != pytest.approx(losses[1][1], rel=1e-3)


def test_the_learning_rate_is_one_cycle_over_the_training() -> None:
    one = task(recipe(training=Training(epochs=4), learning_rate=1.0, batch=16), some_halves())
    optimizer = one.optimizer(one.net)
    schedule, rates = one.schedule(optimizer), []
    for epoch in range(1, 5):
        for _ in one.batches(epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    assert max(rates) == pytest.approx(1.0, rel=0.1)
    assert rates[-1] < 1e-2 < rates[0] + 0.1


def test_the_published_recipe_has_the_published_sizes() -> None:
    chosen = RECIPES["hmtas-live"]()
    assert isinstance(chosen, RowRecipe)
    widths = {"tpn": 2048, "gta": 2048, "vtn": 384, "ircsn": 2048, "i3d": 2048, "audio": 128}
    with torch.device("meta"):
        net = Hmtas(chosen.config(widths))
    published = 48_660_606
    rows, d, streams = chosen.look_behind_rows + 1 + chosen.look_aheads[-1], 512, 6
    added = streams * (rows + len(chosen.look_aheads)) * d + d * 17 + 17
    assert sum(p.numel() for p in net.parameters()) == published + added
    assert set(CLASS_WEIGHTS) == set(chosen.labels)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One match a split; a row a second says what happens."""
    root, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        folder = root / "league" / "season" / split
        folder.mkdir(parents=True)
        annotations = []
        for part in (1, 2):
            visual = rng.standard_normal((70, 24)).astype(np.float32) * 0.1
            for i, second in enumerate(range(8, 66, 7)):
                visual[second, i % 3] += 3
                annotations.append(
                    {
                        "gameTime": f"{part} - {second // 60:02d}:{second % 60:02d}",
                        "label": SOCCERNET_LABELS[i % 3],
                        "position": str(second * 1000 + 300),
                        "visibility": "visible",
                    }
                )
            np.save(folder / f"{part}_demo_visual.npy", visual)
            np.save(folder / f"{part}_demo_audio.npy", rng.standard_normal((70, 16)).astype(np.float32))
        (folder / "Labels-v2.json").write_text(json.dumps({"annotations": annotations}))
        (root / f"{split}.txt").write_text(f"league/season/{split}\n")
    return root


def test_train_and_export_make_bundles_with_the_look_aheads_that_are_asked_for(
    touchline_here: Touchline, features: Path, tmp_path: Path
) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other"
    data = ("--data", features, "--accelerator", "cpu", "--steps", "2")
    ended = touchline_here("train", "small-hmtas-live", *data, "--out", bundle, "--look-ahead", "2,0")
    assert ended.code == 0, ended.err
    manifest = open_bundle(bundle).manifest
    assert manifest.look_aheads_s == (0, 2)
    assert set(manifest.measured) == {"valid", "test"}
    assert manifest.provenance["options"] == {"steps": 2, "look_ahead": [2, 0]}

    last = tmp_path / "bundle.run" / "last.ckpt"
    ended = touchline_here("export", last, "--data", features, "--out", other, "--look-ahead", "4")
    assert ended.code == 0, ended.err
    assert open_bundle(other).manifest.look_aheads_s == (4,)


@pytest.mark.parametrize(
    ("name", "wanted", "complaint"),
    [
        ("small-hmtas-live", "3", "not trained to look 3 s ahead; it has 0, 1, 2, 4"),
        ("small-hmtas-live", "0,0.5,1", "not trained to look 0.5 s ahead"),
        ("small-hmtas", "1", "has one look-ahead: leave --look-ahead out; a choice have hmtas-live, small-hmtas-live"),
        ("demo", "4", "has one look-ahead"),
    ],
)
def test_a_look_ahead_that_a_recipe_does_not_have_is_refused_in_a_sentence(
    touchline_here: Touchline, features: Path, tmp_path: Path, name: str, wanted: str, complaint: str
) -> None:
    ended = touchline_here("train", name, "--data", features, "--out", tmp_path / "out", "--look-ahead", wanted)
    assert ended.code == 2
    assert complaint in ended.complaint
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_other_look_aheads_for_its_bundle() -> None:
    begun = Options(steps=7, look_ahead=(0.0, 2.0))
    assert Options.of(begun.plain()) == begun
    assert Options.of(json.loads(json.dumps(begun.plain()))) == begun
    assert begun.exported_with(None, None) == begun
    assert begun.exported_with(None, (4.0,)) == replace(begun, look_ahead=(4.0,))


def test_a_recipe_that_is_not_trained_for_what_it_exports_is_refused() -> None:
    with pytest.raises(UsageError, match="not trained to look 8 s ahead"):
        recipe(look_aheads=(0, 4)).exporting((8.0,))
