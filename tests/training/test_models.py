import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.labels import SOCCERNET_LABELS
from training.models.frontends import AudioFrontEnd, LogMel, VisualFrontEnd
from training.models.hmtas import CLASS_WEIGHTS, Hmtas, HmtasConfig, hmtas_loss, weighted_nll

COLUMN_WEIGHTS = torch.tensor([1.0, *(CLASS_WEIGHTS[label] for label in SOCCERNET_LABELS)])


def small_head(readout: str = "row", positions: bool = True) -> Hmtas:
    torch.manual_seed(3)
    config = HmtasConfig(
        widths={"visual": 6, "audio": 4},
        rows=5,
        look_ahead=1,
        d_model=16,
        heads=2,
        layers=1,
        feed_forward=32,
        readout=readout,
        positions=positions,
        max_displacement_s=1.25,
    )
    return Hmtas(config).eval()


def some_rows(batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "visual": torch.randn(batch, 5, 6, generator=generator),
        "audio": torch.randn(batch, 5, 4, generator=generator),
    }


@pytest.mark.parametrize("readout", ["row", "max"])
def test_an_item_does_not_depend_on_the_rest_of_its_batch(readout: str) -> None:
    head, rows = small_head(readout), some_rows(4)
    others = {name: torch.cat([x[:1], x[1:] * 3 - 1]) for name, x in rows.items()}
    assert torch.allclose(head(rows)[0][0], head(others)[0][0], atol=1e-6)


def test_without_positions_and_with_max_the_order_of_rows_does_not_matter_as_in_the_thesis() -> None:
    head, rows = small_head("max", positions=False), some_rows(2)
    turned = {name: x.flip(1) for name, x in rows.items()}
    assert torch.allclose(head(rows)[0], head(turned)[0], atol=1e-6)


def test_with_positions_the_order_of_rows_matters() -> None:
    head, rows = small_head(), some_rows(2)
    with torch.no_grad():
        for stream in head.streams.values():
            stream.positions.mul_(50)  # type: ignore[operator]
    turned = {name: x.clone() for name, x in rows.items()}
    for x in turned.values():
        x[:, :3] = x[:, :3].flip(1)  # the row that is read stays where it is
    assert not torch.allclose(head(rows)[0], head(turned)[0], atol=1e-4)


def test_every_layer_of_an_encoder_starts_with_its_own_weights() -> None:
    torch.manual_seed(0)
    head = Hmtas(HmtasConfig(widths={"a": 4}, d_model=16, heads=2, layers=2, feed_forward=8))
    first, second = head.mix.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_an_hmtas_of_the_published_size_has_the_published_number_of_parameters() -> None:
    widths = {"tpn": 2048, "gta": 2048, "vtn": 384, "ircsn": 2048, "i3d": 2048, "audio": 128}
    head = Hmtas(HmtasConfig(widths=widths))
    own = sum(p.numel() for name, p in head.named_parameters() if not name.startswith("displacement"))
    assert own == 48_660_606


def test_class_weights_follow_the_labels() -> None:
    weights = dict(zip(("background", *SOCCERNET_LABELS), COLUMN_WEIGHTS.tolist(), strict=True))
    assert weights["background"] == 1
    assert (weights["Penalty"], weights["Substitution"], weights["Red card"]) == (20, 15, 30)
    assert (weights["Goal"], weights["Yellow card"], weights["Yellow->red card"]) == (10, 10, 30)


def test_the_loss_equals_the_originals(shared: Path) -> None:
    stored = np.load(shared / "fixtures" / "hmtas_full.npz")
    names = ["mix", "audio", "tpn", "gta", "vtn", "ircsn", "i3d"]
    out = {name: torch.from_numpy(stored[f"bf_{name}"]) for name in names}
    labels = torch.from_numpy(stored["labels"])
    each = [float(weighted_nll(out[name], labels, COLUMN_WEIGHTS)) for name in names]
    np.testing.assert_allclose(each, stored["bf_loss_each"], rtol=1e-5)
    total = hmtas_loss(out["mix"], {n: out[n] for n in names[1:]}, labels, COLUMN_WEIGHTS)
    np.testing.assert_allclose(float(total), stored["bf_loss_total"], rtol=1e-5)


def reference_log_mel(samples: np.ndarray) -> np.ndarray:
    """The same features by numpy's FFT, in double precision."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(float), 400)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    magnitude = np.abs(np.fft.rfft(frames * window, 512))
    low, high = 1127 * np.log1p(np.array([125, 7500]) / 700)
    edges = np.linspace(low, high, 66)
    bins = 1127 * np.log1p(np.arange(257) * 16_000 / 512 / 700)[:, None]
    bands = np.minimum((bins - edges[:-2]) / (edges[1:-1] - edges[:-2]), (edges[2:] - bins) / (edges[2:] - edges[1:-1]))
    bands = np.maximum(bands, 0)
    bands[0] = 0
    result: np.ndarray = np.log(magnitude @ bands + 0.01)
    return result


def test_log_mel_in_the_graph_equals_the_fft() -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    found = LogMel()(torch.from_numpy(samples)[None])[0].numpy()
    assert found.shape == (100, 64)
    expected = reference_log_mel(samples)
    np.testing.assert_allclose(found[: len(expected)], expected, atol=2e-4)


def test_log_mel_equals_vggishs(shared: Path) -> None:
    stored = np.load(shared / "fixtures" / "vggish.npz")
    samples = stored["wave_i16"][:16_000].astype(np.float32) / 32768
    found = LogMel()(torch.from_numpy(samples)[None])[0, :8].numpy()
    np.testing.assert_allclose(found, stored["log_mel_first8"], atol=2e-4)


def test_front_ends_give_one_row_a_second_and_keep_seconds_apart() -> None:
    torch.manual_seed(0)
    visual, audio = VisualFrontEnd(4, 90, 160).eval(), AudioFrontEnd().eval()
    pictures = torch.randint(0, 256, (3, 4, 90, 160, 3), dtype=torch.uint8)
    samples = torch.rand(3, 16_000) - 0.5
    for net, media in ((visual, pictures), (audio, samples)):
        rows = net(media)
        assert rows.shape[0] == 3
        assert torch.allclose(net(media[1:2]), rows[1:2], atol=1e-4)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="look_ahead is 3"):
        HmtasConfig(widths={"a": 1}, rows=3, look_ahead=3)
    with pytest.raises(ValueError, match="readout"):
        HmtasConfig(widths={"a": 1}, readout=json.dumps("mean"))
