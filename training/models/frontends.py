"""The small front ends of the demo recipe: one second of media in, one embedding row out.

Both hold their own preprocessing (scaling of pixels; log-mel), so that what was trained is what runs. Both see one
second only: no state, no look-ahead. The five pictures (the five fifths of the sound) keep their order inside the
row, which is what lets the head say when within the second an action was.

Shapes: B seconds, N pictures a second, H W picture, S samples a second, D width of the row.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.second import SAMPLE_RATE_HZ

LUMA_RGB = (0.299, 0.587, 0.114)


def conv_block(c_in: int, c_out: int, stride: int | tuple[int, int]) -> nn.Sequential:
    """Return 3×3 convolution, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


class VisualFrontEnd(nn.Module):
    """Five strided convolutions over each picture and its change from the picture before.

    Args:
        rate: pictures a second, N.
        height, width: picture size in pixels.
        channels: output channels of the convolutions, each halving the picture.
        d_picture: features kept of each picture.
        d_out: width D of the row.
    """

    def __init__(
        self,
        rate: int,
        height: int,
        width: int,
        channels: tuple[int, ...] = (16, 32, 64, 128, 192),
        d_picture: int = 96,
        d_out: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.rate = rate
        stages, c_in = [], 4
        for c_out in channels:
            stages.append(conv_block(c_in, c_out, 2))
            c_in = c_out
        self.trunk = nn.Sequential(*stages)
        for _ in channels:
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        self.place = nn.Conv2d(c_in, 48, 1)
        self.picture = nn.Linear(48 * height * width + 2 * c_in, d_picture)
        self.dropout = nn.Dropout(dropout)
        self.row = nn.Linear(rate * d_picture, d_out)

    def forward(self, pictures_BNHWC: Tensor) -> Tensor:
        """Return rows (B, D) from uint8 (or float 0–255) RGB (B, N, H, W, 3)."""
        x = pictures_BNHWC.flatten(0, 1).float().permute(0, 3, 1, 2)  # (B·N, 3, H, W)
        luma = (x[:, 0] * LUMA_RGB[0] + x[:, 1] * LUMA_RGB[1] + x[:, 2] * LUMA_RGB[2]).view(-1, self.rate, *x.shape[2:])
        change = luma[:, 1:] - luma[:, :-1]
        change = torch.cat([change[:, :1], change], 1)  # the first picture shows the change that follows it
        x = torch.cat([x - 127.5, change.flatten(0, 1)[:, None]], 1) / 127.5  # (B·N, 4, H, W)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.trunk(x)
        x = torch.cat([self.place(x).flatten(1), x.mean((2, 3)), x.amax((2, 3))], 1)
        x = F.relu(self.picture(x)).view(-1, self.rate * self.picture.out_features)
        row: Tensor = self.row(self.dropout(x))
        return row


class LogMel(nn.Module):
    """Log-mel spectrogram as two products with constant matrices, so that every runtime gives the same numbers.

    25 ms periodic Hann windows every 10 ms, 512-point DFT magnitude, HTK mel bands, natural logarithm; the constants
    are VGGish's. One second of 16 kHz sound gives 100 frames (the last ones padded with silence).
    """

    window, hop, n_fft = 400, 160, 512

    def __init__(self, bands: int = 64, low_hz: float = 125.0, high_hz: float = 7500.0, floor: float = 0.01) -> None:
        super().__init__()
        n = torch.arange(self.window, dtype=torch.float64)
        k = torch.arange(self.n_fft // 2 + 1, dtype=torch.float64)
        hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / self.window)
        angle = 2 * math.pi * k[:, None] * n / self.n_fft
        dft = torch.cat([torch.cos(angle) * hann, torch.sin(angle) * hann])  # (2·257, 400)
        self.floor = floor
        self.register_buffer("dft", dft.float()[:, None])
        self.register_buffer("mel", _mel_matrix(bands, low_hz, high_hz, k * SAMPLE_RATE_HZ / self.n_fft).float())

    def forward(self, samples_BS: Tensor) -> Tensor:
        """Return (B, frames, bands) from float32 (B, S) in [-1, 1]."""
        x = F.pad(samples_BS, (0, self.window - self.hop))[:, None]
        real, imag = F.conv1d(x, self.get_buffer("dft"), stride=self.hop).chunk(2, 1)  # (B, 257, frames)
        magnitude = torch.sqrt(real * real + imag * imag + 1e-12)
        return torch.log(magnitude.transpose(1, 2) @ self.get_buffer("mel") + self.floor)


def _mel_matrix(bands: int, low_hz: float, high_hz: float, bins_hz: Tensor) -> Tensor:
    """Return (257, bands) triangles, linear in mel; the DC bin is zero."""

    def to_mel(hz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hz / 700.0)

    edges = torch.linspace(
        float(to_mel(torch.tensor(low_hz))), float(to_mel(torch.tensor(high_hz))), bands + 2, dtype=torch.float64
    )
    mel = to_mel(bins_hz)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    matrix = torch.minimum((mel - low) / (centre - low), (high - mel) / (high - centre)).clamp(min=0)
    matrix[0] = 0
    return matrix


class AudioFrontEnd(nn.Module):
    """A small convolutional net over the log-mel picture of one second.

    Args:
        parts: equal parts of the second that keep their order in the row.
        d_out: width D of the row.
    """

    def __init__(
        self,
        parts: int = 5,
        channels: tuple[int, int, int, int] = (16, 32, 64, 96),
        d_out: int = 128,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.log_mel = LogMel()
        strides: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (1, 2), (1, 2))
        stages, c_in = [], 1
        for c_out, stride in zip(channels, strides, strict=True):
            stages.append(conv_block(c_in, c_out, stride))
            c_in = c_out
        self.trunk = nn.Sequential(*stages)  # (B, 96, 25, 4)
        self.part = nn.Linear(c_in * 4, 64)
        self.dropout = nn.Dropout(dropout)
        self.row = nn.Linear(parts * 64, d_out)

    def forward(self, samples_BS: Tensor) -> Tensor:
        """Return rows (B, D) from float32 (B, 16000) in [-1, 1]."""
        x = (self.log_mel(samples_BS) + 2.0) / 2.0  # (B, 100, 64), about zero mean and unit spread
        x = self.trunk(x[:, None])  # (B, c, 25, 4)
        x = x.view(*x.shape[:2], self.parts, -1, x.shape[3]).amax(3)  # the loudest of each part: (B, c, parts, 4)
        x = F.relu(self.part(x.transpose(1, 2).flatten(2)))  # (B, parts, 64)
        row: Tensor = self.row(self.dropout(x.flatten(1)))
        return row
