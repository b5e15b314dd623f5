from pathlib import Path

import numpy as np
import torch

from training.models.frontends import AudioFrontEnd, LogMel, VisualFrontEnd


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
