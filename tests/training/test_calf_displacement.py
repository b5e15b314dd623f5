"""CALF's displacement: what it is told, what it costs, and where the spots that the anchors find then come to lie."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engines.actions import Action
from engines.backends.ort import OrtEngine
from engines.bundle import FORMAT_VERSION, Bundle, Decision, Manifest, ModalityStream, open_bundle
from engines.frontend import embeddings_of
from training.data.features import LoadedHalf
from training.encodings import decode_spotting
from training.export import ChunkHead, export_graph, write_head_bundle
from training.fit import Training, fit, prepare_torch
from training.measure import scored, spot
from training.models.calf import Calf, CalfConfig, placing_loss
from training.recipes.heads import ChunkRecipe
from training.recipes.papers import calf, recipes
from training.tasks import ChunkTask

WIDTH, REACH_S = 4, 3.0
LABELS = ("Goal", "Foul")


class Half(LoadedHalf):
    """A loaded half that is asked for its widths, as those on disk are."""

    @property
    def widths(self) -> dict[str, int]:
        return {name: rows.shape[1] for name, rows in self.rows.items()}


def half(length: int, actions: Mapping[float, str], rate: int = 1) -> Half:
    """A half whose rows show what is near, by column 1 + label, and in column 0 how far off it is."""
    rows = np.zeros((length, WIDTH), np.float32)
    middles = (np.arange(length) + 0.5) / rate
    for time_s, label in actions.items():
        near = np.abs(middles - time_s) <= REACH_S
        rows[near, 0] = (time_s - middles[near]) / REACH_S
        rows[near, 1 + LABELS.index(label)] = 1
    rows[:, 3] = 1  # a row of zeros alone would be one without a picture
    labelled = tuple(Action(label, 1, time_s) for time_s, label in sorted(actions.items()))
    return Half("a", 1, rate, labelled, {"visual": rows})


def recipe(**changes: object) -> ChunkRecipe:
    fields: dict[str, object] = {"rows": 24, "receptive_field": 4, "labels": LABELS, "max_displacement_s": REACH_S}
    return replace(calf(small=True), **{**fields, **changes})  # type: ignore[arg-type]


def task(halves: list[Half], chosen: ChunkRecipe) -> ChunkTask:
    return chosen.task(halves, halves, seed=1)  # type: ignore[arg-type]


def bundle_of(path: Path, chosen: ChunkRecipe, net: Calf, radius_s: float = 1.0) -> Bundle:
    rate = 2 if chosen.features == "resnet" else 1
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="calf",
        labels=chosen.labels,
        streams=(ModalityStream(name="visual", modality="visual", file=None, features="x", rate=rate, width=WIDTH),),
        head=chosen.spec(),
        decision={label: Decision(threshold=0.5, radius_s=radius_s) for label in chosen.labels},
        sha256={},
    )
    write_head_bundle(path, chosen.head(net.eval()), manifest)
    return open_bundle(path)


def some(batch: int, rows: int, labels: int = 2, seed: int = 1) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, (batch, rows, labels)).astype(np.float32))


def test_the_published_models_are_as_they_were() -> None:
    for name, make in recipes().items():
        chosen = make()
        if isinstance(chosen, ChunkRecipe) and "displacement" not in name:
            assert chosen.config({"visual": 512}).max_displacement_s == chosen.spec().max_displacement_s == 0
    torch.manual_seed(1)
    plain = Calf(CalfConfig({"visual": 8})).eval()
    torch.manual_seed(1)
    placing = Calf(CalfConfig({"visual": 8}, max_displacement_s=3.0)).eval()
    added = {name for name in placing.state_dict() if name not in plain.state_dict()}
    assert {name.split(".")[0] for name in added} == {"displacement"}
    rows = {"visual": torch.randn(2, 240, 8)}
    for mine, theirs in zip(placing(rows), plain(rows), strict=True):
        assert torch.equal(mine, theirs)
    assert not plain.outputs(rows)[2].any()


def test_before_training_nothing_is_moved_and_afterwards_never_further_than_allowed() -> None:
    net = Calf(CalfConfig({"visual": 8}, rows=48, receptive_field=16, max_displacement_s=2.5)).eval()
    rows = {"visual": torch.randn(2, 48, 8)}
    assert not net.outputs(rows)[2].any()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=3)
    shift = net.outputs(rows)[2]
    assert shift.shape == (2, 48, 17)
    assert 2 < shift.abs().max() <= 2.5


def test_displacement_looks_no_further_than_the_receptive_field() -> None:
    net = Calf(CalfConfig({"visual": 3}, rows=48, receptive_field=16, max_displacement_s=1.0)).eval()
    assert net.displacement is not None
    with torch.no_grad():
        for parameter in net.displacement.parameters():
            parameter.normal_()
    x = torch.randn(1, 48, 3, requires_grad=True)
    net.outputs({"visual": x})[2][0, 24].sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    seen = x.grad[0].abs().sum(1).nonzero()[:, 0] - 24
    assert (int(seen.min()), int(seen.max())) == (-7, 8)  # half of it ahead: the row is scored when that is there


@given(
    st.lists(st.tuples(st.integers(0, 59_999), st.sampled_from(LABELS)), max_size=6, unique=True),
    st.sampled_from([1, 2]),
)
def test_a_row_that_is_learned_is_told_its_nearest_action_to_the_millisecond(
    actions: list[tuple[int, str]], rate: int
) -> None:
    chosen = recipe(features="demo" if rate == 1 else "resnet", context=1.0)
    one = half(60 * rate, {at_ms / 1000: label for at_ms, label in actions}, rate)
    batch = next(iter(task([one], chosen).batches(1)))
    found, rows = batch.displacement.numpy(), batch.rows["visual"].numpy()
    inner = np.arange(chosen.rows)[2:-2]
    assert np.isinf(np.delete(found, inner, 1)).all()
    for b in range(len(found)):
        start = next(
            s for s in range(60 * rate - chosen.rows + 1) if (one.rows["visual"][s : s + chosen.rows] == rows[b]).all()
        )
        for c, label in enumerate(LABELS):
            times = [a.time_s for a in one.actions if a.label == label]
            for row in inner:
                middle = (start + row + 0.5) / rate
                wanted = min((abs(t - middle) for t in times), default=np.inf)
                got = found[b, row, c]
                assert abs(got) == pytest.approx(wanted, abs=1e-5)
                assert np.isinf(got) or min(abs(middle + got - t) for t in times) < 1e-4


def test_rows_after_the_end_of_a_half_are_not_learned() -> None:
    batch = next(iter(task([half(15, {7.25: "Goal"})], recipe()).batches(1)))
    assert torch.isfinite(batch.displacement[:, 2:15, 0]).all()
    assert torch.isinf(batch.displacement[:, 15:]).all()


def test_the_truth_costs_nothing_whatever_is_said_elsewhere() -> None:
    true = some(3, 10)
    true[:, 4:] = torch.inf
    true[0, 0, 0] = 2.5  # further off than the reach
    said = torch.where(true.abs() <= 2, true, 7.0)
    assert placing_loss(said, true, 2.0) == 0
    assert placing_loss(said + 0.5, true, 2.0) > 0
    assert placing_loss(said, torch.full_like(true, torch.inf), 2.0) == 0


def test_gradient_comes_from_rows_near_actions_only() -> None:
    true = some(3, 10)
    true[1, 3:, 1] = torch.inf
    said = torch.zeros_like(true, requires_grad=True)
    placing_loss(said, true, 1.0).backward()  # type: ignore[no-untyped-call]
    assert said.grad is not None
    assert torch.isfinite(said.grad).all()
    assert torch.equal(said.grad != 0, true.abs() <= 1.0)


def test_the_loss_is_summed_over_chunks_as_calfs_own_is() -> None:
    true, said = some(3, 10), some(3, 10, seed=2)
    twice = placing_loss(said.repeat(2, 1, 1), true.repeat(2, 1, 1), 1.0)
    assert twice == pytest.approx(2 * placing_loss(said, true, 1.0).item(), rel=1e-5)


def test_an_exported_graph_equals_the_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = Calf(CalfConfig({"visual": 8}, rows=48, receptive_field=16, max_displacement_s=2.0)).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2).add_(0.05 * torch.randn_like(parameter))
    rows = torch.randn(1, 48, 8)
    path = tmp_path / "head.onnx"
    export_graph(ChunkHead(net, as_original=False), path, {"visual": rows}, ["scores", "displacement"], {})
    found = OrtEngine(path).run({"visual": rows.numpy()})
    with torch.no_grad():
        _, anchors, shift = net.outputs({"visual": rows})
    assert found["displacement"].shape == (1, 48, 17)
    np.testing.assert_allclose(found["displacement"], shift.numpy(), atol=1e-5)
    wanted = np.maximum(decode_spotting(anchors.numpy(), 48, exact=True), 0)
    np.testing.assert_allclose(found["scores"], wanted, atol=1e-5)
    assert found["displacement"].std() > 0.01


def pointing(chosen: ChunkRecipe, row: int, shift_s: float) -> Calf:
    """A network whose every anchor says of every chunk: a goal, at `row`, and off its middle by `shift_s`."""
    net = Calf(chosen.config({"visual": WIDTH}))
    assert net.displacement is not None
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.place.bias[0::2] = 3
        net.place.bias[1::2] = float(np.log(row / (chosen.rows - row)))
        net.label.bias[LABELS.index("Goal") :: len(LABELS)] = 5
        net.displacement[-1].bias.fill_(float(np.arctanh(shift_s / chosen.max_displacement_s)))  # type: ignore[operator]
    return net.eval()


@pytest.mark.parametrize("shift_s", [-1.7, 0.0, 2.25])
@pytest.mark.parametrize(("features", "rate"), [("demo", 1), ("resnet", 2)])
def test_the_decider_places_a_spot_at_the_rows_middle_and_the_displacement(
    tmp_path: Path, features: str, rate: int, shift_s: float
) -> None:
    chosen = recipe(features=features, hop_s=20.0 / rate)  # side by side: every chunk's inner rows are used
    row, length = 9, 96
    opened = bundle_of(tmp_path / "bundle", chosen, pointing(chosen, row, shift_s))
    one = half(length, {}, rate)
    said = spot(opened, embeddings_of(one.rows, opened.manifest))
    assert len(said) >= 3
    for found in said:
        on_row = (found.media_time - shift_s) * rate - 0.5
        assert on_row == pytest.approx(round(on_row), abs=0.01)
        assert found.label == "Goal"
    gaps = np.diff([s.media_time for s in said])
    assert gaps == pytest.approx(20 / rate)
    live = scored(opened, embeddings_of(one.rows, opened.manifest), ())
    middles_us = (np.arange(length) + 0.5) / rate * 1e6
    scored_rows = live.scores_TC.any(1)
    assert live.times_TC[scored_rows, 0] == pytest.approx(middles_us[scored_rows] + shift_s * 1e6, abs=1000)
    with torch.no_grad():
        offline = task([one], chosen).score(pointing(chosen, row, shift_s), one)
    assert offline.times_TC[:, 0] == pytest.approx(np.maximum(middles_us + shift_s * 1e6, 0), abs=1000)


def planted(length: int, seed: int) -> Half:
    rng = np.random.default_rng(seed)
    times = np.arange(8, length - 8, 12) + rng.uniform(-3, 3, len(range(8, length - 8, 12)))
    return half(length, {round(float(t), 3): LABELS[int(rng.integers(2))] for t in times})


def test_a_planted_displacement_is_learnt(tmp_path: Path) -> None:
    """The rows say how far off the action is; on a half that was not learnt from, so does the network."""
    chosen = recipe(chunks=320, training=Training(epochs=10, seed=1, threads=1, keep="last"))
    prepare_torch(chosen.training)
    learned = task([planted(240, 1), planted(240, 2)], chosen)
    net = fit(learned, chosen.training, tmp_path / "run").net
    unseen = planted(240, 3)
    with torch.no_grad():
        found = learned.score(net, unseen)
    middles = np.arange(240) + 0.5
    for action in unseen.actions:
        near = np.abs(middles - action.time_s) <= 2
        at_s = found.times_TC[near, LABELS.index(action.label)] / 1e6
        assert np.abs(at_s - action.time_s).max() < 0.3
