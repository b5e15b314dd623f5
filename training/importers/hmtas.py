"""Weights of the original HMTAS (arturxe2/TFM-Artur-Xarles: Model/model.py), for ours.

They were trained with attention over the batch: with `HmtasConfig(attention="batch")` ours gives the original's scores,
with the default what the thesis describes. The author published no weights. (Before its last commit the original's
encoder over the streams left audio out, under the same names: such weights pass here, but give other scores.)
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from training.importers import renamed
from training.models.hmtas import Hmtas, HmtasConfig
from training.windows import look_ahead_rows

BAIDU_WIDTHS: Mapping[str, int] = {"tpn": 2048, "gta": 2048, "vtn": 384, "ircsn": 2048, "i3d": 2048}
"""The visual streams' widths, in the order in which a row of Baidu's 8576 values holds them.

Source: widths from the code, names from the order of the thesis's Table 4.1.
"""


def original_config(audio_width: int = 128, rows: int = 3, attention: str = "window") -> HmtasConfig:
    """Return the original's configuration: 48,660,606 parameters with audio 128 wide, 48,857,214 with 512."""
    widths = {"audio": audio_width, **BAIDU_WIDTHS}
    return HmtasConfig(widths, rows=rows, look_ahead=look_ahead_rows(rows), attention=attention)


def original_modules() -> dict[str, str]:
    """Return the original's name of each module that holds tensors, by ours."""
    modules = {"out": "fc_mix", **_encoder("mix", "encoder_mix")}
    for number, stream in enumerate(["audio", *BAIDU_WIDTHS]):
        audio = stream == "audio"
        theirs = "A" if audio else f"B{number}"
        modules |= {
            f"streams.{stream}.project": "conv1A" if audio else f"conv{number}B",
            f"streams.{stream}.norm": "normA" if audio else f"norm{number}B",
            **_encoder(f"streams.{stream}.encoder", f"encoder{theirs}"),
            f"streams.{stream}.own": f"fc{theirs}",
        }
    return modules


def _encoder(ours: str, theirs: str) -> dict[str, str]:
    """Return the names of an encoder's two layers; the original has an encoder of one layer for each."""
    return {f"{ours}.layers.0": f"{theirs}.layers.0", f"{ours}.layers.1": f"{theirs}_2.layers.0"}


def convert(state: Mapping[str, Tensor], config: HmtasConfig) -> dict[str, Tensor]:
    """Return the weights of an HMTAS under our names.

    Args:
        state: the original's state dict (in its checkpoints, the value of "state_dict").
        config: what the weights are for, `original_config` or one that differs in `rows` and `attention`.

    Raises:
        DataError: a tensor is missing, left over or of another shape.
    """
    with torch.device("meta"):
        network = Hmtas(config)
    return renamed(state, original_modules(), network)
