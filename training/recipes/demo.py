"""The recipe of the shipped bundle: small front ends and HMTAS, trained together on simulated matches.

A recipe is a complete configuration; a variant is `dataclasses.replace` over another.
"""

from dataclasses import dataclass

from streamer.sampler import PictureSpec


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run gives."""

    name: str
    pictures: PictureSpec
    visual_channels: tuple[int, ...] = (16, 32, 64, 128, 192)
    visual_width: int = 256
    audio_width: int = 128
    look_behind_rows: int = 8
    look_ahead_rows: int = 4
    d_model: int = 128
    heads: int = 4
    layers: int = 2
    feed_forward: int = 256
    dropout: float = 0.1
    row_dropout: float = 0.1
    readout: str = "row"
    max_displacement_s: float = 1.25
    target_reach_s: float = 1.0
    """A row is positive for an action whose time is less than this from the row's middle."""
    displacement_share: float = 0.3
    """Weight of the displacement loss beside the thesis's loss."""
    guess_share: float = 0.5
    """Weight of the loss of each row's own guess, which supervises the front ends directly."""

    seed: int = 1
    threads: int = 2
    steps: int = 1300
    clips: int = 6
    clip_s: int = 24
    learning_rate: float = 3e-3
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warm_up: float = 0.05
    ema_decay: float = 0.995
    audio_dropped: float = 0.1
    video_dropped: float = 0.03
    validate_every: int = 200

    @property
    def rows(self) -> int:
        """Window length L."""
        return self.look_behind_rows + 1 + self.look_ahead_rows


def demo() -> Recipe:
    """Return the recipe that made `bundles/demo`."""
    return Recipe(name="demo", pictures=PictureSpec(rate=4, width=160, height=90, resize_filter="area"))
