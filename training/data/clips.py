"""Random training clips: a few dozen consecutive seconds of a half, augmented, with the targets of each row.

Clips start at any picture, not only at whole seconds: live, nobody knows where on the second an action falls.

Shapes: B clips, T seconds of a clip, N pictures a second, H W picture, S samples a second, C labels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.actions import Action
from engines.second import SAMPLE_RATE_HZ
from training.data.soccernet import Half


class Batch(NamedTuple):
    """What one training step sees.

    Attributes:
        pictures: float32 0–255 (B, T, N, H, W, 3).
        samples: float32 (B, T, S).
        video_valid, audio_valid: float32 (B, T); 0 where there is no such media.
        targets: float32 (B, T, 1 + C), background first.
        shift: float32 (B, T, C), seconds from the row's middle to the action.
    """

    pictures: Tensor
    samples: Tensor
    video_valid: Tensor
    audio_valid: Tensor
    targets: Tensor
    shift: Tensor


def row_targets(
    actions: Sequence[Action], labels: Sequence[str], start_s: float, seconds: int, reach_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which rows hold which actions, and how far off the row's middle these are.

    Args:
        actions: actions of the half, times in its media time.
        labels: label order of the columns.
        start_s: media time of the first row's start.
        seconds: number of rows, one a second.
        reach_s: a row is positive for an action less than this from its middle.

    Returns:
        float32 (T, 1 + C), background first, and float32 (T, C) in seconds; of two actions of one label the nearer.
    """
    targets = np.zeros((seconds, 1 + len(labels)), np.float32)
    shift = np.zeros((seconds, len(labels)), np.float32)
    middles = start_s + np.arange(seconds) + 0.5
    column = {label: c for c, label in enumerate(labels)}
    for action in actions:
        c = column.get(action.label)
        if c is None:
            continue
        off = action.time_s - middles
        near = np.abs(off) < reach_s
        nearer = near & ((targets[:, 1 + c] == 0) | (np.abs(off) < np.abs(shift[:, c])))
        shift[nearer, c] = off[nearer]
        targets[near, 1 + c] = 1
    targets[:, 0] = targets[:, 1:].max(1) == 0
    return targets, shift


class ClipSampler:
    """Draws batches of augmented clips; the same seed gives the same batches."""

    def __init__(
        self,
        halves: Sequence[Half],
        labels: Sequence[str],
        *,
        clips: int,
        clip_s: int,
        reach_s: float,
        audio_dropped: float,
        video_dropped: float,
        seed: int,
    ) -> None:
        self._halves = halves
        self._labels = labels
        self._clips, self._clip_s, self._reach_s = clips, clip_s, reach_s
        self._audio_dropped, self._video_dropped = audio_dropped, video_dropped
        self._rng = np.random.default_rng(seed)
        lengths = np.array([h.seconds for h in halves], float)
        self._weights = lengths / lengths.sum()

    def state(self) -> dict[str, Any]:
        """Return where the draws are, as plain values."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on drawing from where `state` was taken."""
        self._rng.bit_generator.state = dict(state)

    def batch(self) -> Batch:
        """Return the next batch."""
        clips = [self._clip() for _ in range(self._clips)]
        return Batch(*(torch.stack(parts) for parts in zip(*clips, strict=True)))

    def _clip(self) -> tuple[Tensor, ...]:
        rng = self._rng
        half = self._halves[rng.choice(len(self._halves), p=self._weights)]
        n, t = half.spec.rate, self._clip_s
        first = int(rng.integers(-4 * n, max(1, (half.seconds - t + 4) * n)))  # pictures; may hang over the ends
        pictures, samples, valid = cut(half, first, t)
        targets, shift = row_targets(half.actions, self._labels, first / n, t, self._reach_s)
        video = valid * (rng.random() >= self._video_dropped)
        audio = valid * (rng.random() >= self._audio_dropped)
        return (
            augment_pictures(torch.from_numpy(pictures), rng),
            augment_sound(torch.from_numpy(samples), rng),
            torch.from_numpy(video.astype(np.float32)),
            torch.from_numpy(audio.astype(np.float32)),
            torch.from_numpy(targets),
            torch.from_numpy(shift),
        )


def cut(half: Half, first: int, seconds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pictures (T, N, H, W, 3) uint8, samples (T, S) float32 and validity (T,) from picture `first` on.

    Seconds that are not wholly inside the half are zero and invalid.
    """
    n = half.spec.rate
    per_picture = SAMPLE_RATE_HZ // n
    pictures = np.zeros((seconds, n, *half.pictures_THWC.shape[1:]), np.uint8)
    samples = np.zeros((seconds, SAMPLE_RATE_HZ), np.float32)
    starts = first + np.arange(seconds) * n
    valid = (starts >= 0) & (starts + n <= len(half.pictures_THWC))
    for i in np.flatnonzero(valid):
        pictures[i] = half.pictures_THWC[starts[i] : starts[i] + n]
        block = half.samples_S[starts[i] * per_picture : starts[i] * per_picture + SAMPLE_RATE_HZ]
        samples[i, : len(block)] = block / np.float32(32767)
    return pictures, samples, valid


def augment_pictures(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Return float32 pictures, about 0–255, of one clip: mirrored, cropped, softened, recoloured, noisy at random.

    One draw serves the whole clip, as one camera and one encoder would.
    """
    t, n, h, w, _ = pictures.shape
    x = pictures.flatten(0, 1).permute(0, 3, 1, 2)  # (T·N, 3, H, W) uint8, channels last in memory
    if rng.random() < 0.5:
        x = x.flip(3)
    if rng.random() < 0.7:
        scale = rng.uniform(0.82, 1.0)
        ch, cw = round(h * scale), round(w * scale)
        top, left = int(rng.integers(0, h - ch + 1)), int(rng.integers(0, w - cw + 1))
        x = x[:, :, top : top + ch, left : left + cw]
    if rng.random() < 0.35:
        soft = rng.uniform(0.45, 0.9)
        x = F.interpolate(x, size=(round(h * soft), round(w * soft)), mode="bilinear")
    if x.shape[2:] != (h, w):
        x = F.interpolate(x, size=(h, w), mode="bilinear")
    if rng.random() < 0.3:  # the scoreboard gives goals away in some broadcasts only
        top, bottom = (0, int(rng.integers(8, h // 6))) if rng.random() < 0.7 else (h - h // 6, h)
        x = x.clone()
        x[:, :, top:bottom] = int(rng.integers(0, 256))
    y = x.contiguous(memory_format=torch.channels_last).float()
    gain = (rng.uniform(0.65, 1.25) * rng.uniform(0.9, 1.1, 3)).astype(np.float32)
    y.mul_(torch.from_numpy(gain)[:, None, None]).add_(float(rng.uniform(-20, 20)))
    if rng.random() < 0.3:
        y = torch.lerp(y.mean(1, keepdim=True), y, float(rng.uniform(0.2, 1.4)))
    if rng.random() < 0.3:
        noise = rng.standard_normal((n, h, w, 1), np.float32) * np.float32(rng.uniform(3, 15))
        y.permute(0, 2, 3, 1).view(t, n, h, w, 3).add_(torch.from_numpy(noise))
    return y.permute(0, 2, 3, 1).view(t, n, h, w, 3)


def augment_sound(samples_TS: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the clip's sound at a random level, at times with hiss."""
    x = samples_TS * float(10 ** (rng.uniform(-9, 6) / 20))
    if rng.random() < 0.3:
        level = np.float32(10 ** (rng.uniform(-60, -35) / 20))
        x = x + torch.from_numpy(rng.standard_normal(x.shape, np.float32) * level)
    return x.clamp(-1, 1)
