"""VGGish: 16 kHz sound in, log-mel patches, one 128-wide embedding every 0.96 s out.

Source: Hershey et al., "CNN Architectures for Large-Scale Audio Classification"; AudioSet's code in its torch form,
`torchvggish`, which the HMTAS thesis uses (`VGGish_features/`).

Resampling to 16 kHz is not done here: the decoder does it (the originals use `resampy`).

Shapes: N samples, F spectrogram frames (10 ms), M = 64 mel bands, P patches of 96 frames, B patches of a batch.
"""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.second import SAMPLE_RATE_HZ

WINDOW, HOP, FFT = 400, 160, 512
"""Samples of a frame, between frames, and of the Fourier transform."""

BANDS, LOW_HZ, HIGH_HZ = 64, 125.0, 7500.0
LOG_FLOOR = 0.01
"""Added before the logarithm; silence is ln 0.01."""

PATCH = 96
"""Frames of a patch and between patches: 0.96 s."""

PCA_RANGE = 2.0
"""Whitened embeddings are clipped to ± this before they are put on 8 bits."""

FLOAT64 = NDArray[np.float64]

_BLOCK = 4096  # frames worked on at once: a half has 270 000


def frame_count(samples: int) -> int:
    """Return how many spectrogram frames that many samples give; a frame is never padded."""
    return max(0, 1 + (samples - WINDOW) // HOP)


def log_mel(samples_N: NDArray[np.floating]) -> FLOAT64:
    """Return the log-mel spectrogram (F, 64) of mono sound at 16 kHz in [-1, 1] (int16 / 32768).

    Periodic Hann windows, magnitude (not power) of the spectrum, HTK's mel scale, natural logarithm.

    Source: `mel_features.py: log_mel_spectrogram`.
    """
    count = frame_count(len(samples_N))
    if not count:
        return np.empty((0, BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(samples_N.astype(float), WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    blocks: list[FLOAT64] = [
        np.log(np.abs(np.fft.rfft(frames[start : start + _BLOCK] * hann, FFT)) @ mel_matrix() + LOG_FLOOR)
        for start in range(0, count, _BLOCK)
    ]
    return np.concatenate(blocks)


@functools.cache
def mel_matrix() -> FLOAT64:
    """Return how much of each of the 257 spectrum bins goes into each mel band, (257, 64).

    Triangles that are straight in mel and overlap by half; the bin of 0 Hz is left out.
    """
    low, high = _mel(np.array([LOW_HZ, HIGH_HZ]))
    edges = np.linspace(low, high, BANDS + 2)
    bins = _mel(np.linspace(0, SAMPLE_RATE_HZ / 2, FFT // 2 + 1))[:, None]
    below, centre, above = edges[:-2], edges[1:-1], edges[2:]
    matrix: FLOAT64 = np.maximum(0, np.minimum((bins - below) / (centre - below), (above - bins) / (above - centre)))
    matrix[0] = 0
    matrix.flags.writeable = False
    return matrix


def _mel(hz: FLOAT64) -> FLOAT64:
    return 1127.0 * np.log1p(hz / 700.0)


def patches(spectrogram_FM: FLOAT64) -> NDArray[np.float32]:
    """Return the spectrogram cut into patches (P, 96, 64), side by side; what is left at the end is dropped."""
    count = len(spectrogram_FM) // PATCH
    return spectrogram_FM[: count * PATCH].reshape(count, PATCH, BANDS).astype(np.float32)


class Vggish(nn.Module):
    """The network: log-mel patches (B, 96, 64) → embeddings (B, 128), none of them negative."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c_in = 1
        for stage in ((64,), (128,), (256, 256), (512, 512)):
            for c_out in stage:
                layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
                c_in = c_out
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * (PATCH // 16) * (BANDS // 16), 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 128),
            nn.ReLU(inplace=True),
        )

    def forward(self, patches_BFM: Tensor) -> Tensor:
        """Return the embeddings."""
        maps = self.features(patches_BFM[:, None])  # (B, 512, 6, 4)
        # the weights come from TensorFlow, which keeps channels last
        embedded: Tensor = self.embeddings(maps.permute(0, 2, 3, 1).flatten(1))
        return embedded


class VggishTagger(nn.Module):
    """VGGish with the head that HMTAS fine-tunes it with: patches (B, 96, 64) → scores (B, 1 + C) in [0, 1].

    Source: thesis, section 4.1.1; `VGGish_features/vggish_torch.py`.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.vggish = Vggish()
        self.classifier = nn.Sequential(nn.Linear(128, 100), nn.ReLU(), nn.Linear(100, 1 + labels))

    def forward(self, patches_BFM: Tensor) -> Tensor:
        """Return the scores."""
        return torch.sigmoid(self.classifier(self.vggish(patches_BFM)))


def postprocess(
    embeddings_BD: NDArray[np.float32], vectors_DD: NDArray[np.float32], means_D: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Return embeddings as AudioSet publishes them: whitened by the PCA, clipped, on 8 bits.

    Args:
        embeddings_BD: what `Vggish` gives, D = 128.
        vectors_DD: the PCA's directions, one a row.
        means_D: subtracted first.

    Source: `vggish.py: Postprocessor`. HMTAS does without it.
    """
    whitened = np.clip((embeddings_BD - means_D) @ vectors_DD.T, -PCA_RANGE, PCA_RANGE)
    return np.round((whitened + PCA_RANGE) * (255 / (2 * PCA_RANGE))).astype(np.uint8)


def one_row_a_second(embeddings_PD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return about one row a second from one each 0.96 s: of every 25 rows, the 13th is left out.

    Row k is then second k to within half a second. Source: HMTAS's `featA` files, thesis's repository.
    """
    return np.delete(embeddings_PD, np.s_[12::25], axis=0)
