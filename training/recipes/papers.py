"""Every model that the two papers build or compare, as recipes.

Each comes twice: as published (`hmtas`, `calf`, `netvlad++`, …), on SoccerNet's feature files; and small (`small-…`),
on what `touchline embed` writes with the shipped bundle, a row a second, with networks, windows and contexts sized
for the hour or two of matches that one has at the start.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from training.fit import Training
from training.models.audiovid import AudioVid, AudioVidConfig, audiovid_loss
from training.models.baidu import BaiduConfig, BaiduTransformer
from training.models.calf import VARIANTS
from training.models.cartas import Cartas, CartasConfig
from training.models.hmtas import THESIS_MODELS, Hmtas, column_weights, hmtas_loss, thesis_model
from training.models.pooling import POOLS, Pooling, PoolingConfig, nll
from training.recipes.clips import ClipRecipe
from training.recipes.heads import ChunkRecipe, HeadRecipe, Widths, WindowRecipe
from training.tasks import Rows


def _first(net: nn.Module, rows: Rows) -> Tensor:
    scores: Tensor = net(rows)[0]
    return scores


def _only(net: nn.Module, rows: Rows) -> Tensor:
    scores: Tensor = net(rows)
    return scores


def _nll(net: nn.Module, rows: Rows, targets: Tensor) -> Tensor:
    return nll(net(rows), targets)


_SMALL: Mapping[str, Any] = {"d_model": 128, "heads": 4, "feed_forward": 256}
"""Sizes of small transformers."""
_SMALL_VLAD: Mapping[str, Any] = {"d_model": 128, "clusters": 16}
SMALL_EPOCHS = 15


def hmtas(row: str = "m7", rows: int | None = None, *, small: bool = False, **changes: Any) -> WindowRecipe:
    """Return a row of the thesis's Table 5.2, with its window length or another."""
    visual = ("visual",) if small else ("tpn", "gta", "vtn", "ircsn", "i3d")
    audio = ("audio",) if row in ("m6", "m7") else ()
    length = rows or (7 if row == "m0" else 3)
    weights = column_weights(thesis_model(row, {"v": 1}, {"a": 1}).class_weights)

    def build(widths: Widths, rows: int) -> nn.Module:
        model = thesis_model(row, {v: widths[v] for v in visual}, {a: widths[a] for a in audio}, rows)
        return Hmtas(replace(model.config, **(_SMALL if small and model.config.layers else {})))

    def loss(net: nn.Module, rows: Rows, targets: Tensor) -> Tensor:
        scores, _, own = net(rows)
        return hmtas_loss(scores, own, targets, weights.to(targets.device))

    name = f"hmtas-{row}" + (f"-l{rows}" if rows else "")
    recipe = WindowRecipe(
        name="small-" + name if small else name,
        summary=f"{row.upper()}: {THESIS_MODELS[row]}" + (f", windows of {rows} s" if rows else ""),
        features="demo" if small else "baidu",
        streams=visual + audio,
        training=Training(epochs=SMALL_EPOCHS, patience=5) if small else Training(epochs=50, patience=4),
        learning_rate=1e-3,
        weight_decay=1e-5,
        amsgrad=True,
        batch=32,
        rows=length,
        every=True,
        build=build,
        loss=loss,
        window_scores=_first,
    )
    return replace(recipe, **changes)


def pooling(pool: str, *, small: bool = False) -> WindowRecipe:
    """Return a network of the pooling family; NetVLAD++ as published takes 2048-wide rows."""

    def build(widths: Widths, rows: int) -> nn.Module:
        sizes = _SMALL_VLAD if small else {}
        return Pooling(PoolingConfig(widths, rows, pool, **sizes))

    return WindowRecipe(
        name="small-" + pool if small else pool,
        summary=f"{pool} pooling of a window, a linear layer",
        features="demo" if small else "resnet2048",
        streams=("visual",),
        training=Training(epochs=4 * SMALL_EPOCHS, patience=15) if small else Training(epochs=1000),
        plateau=10,
        batch=32 if small else 256,
        rows=7 if small else 30,
        every=False,
        build=build,
        loss=_nll,
        window_scores=_only,
    )


def calf(variant: str = "CALF", *, small: bool = False, **changes: Any) -> ChunkRecipe:
    """Return CALF or one of Swapno's modifications of it, with the recipe's fields changed where it is told."""
    fields = _CALF_VARIANTS[variant]
    name = "calf" if variant == "CALF" else "calf-" + variant.lower().replace("+", "-")
    shared: dict[str, Any] = {"streams": ("visual",), "eps": 1e-7, "plateau": 25, "variant": fields}
    summary = {
        "CALF": "CALF, with its context-aware loss",
        "Seg-Unequal": "CALF, its segmentation's convolution split into unequal kernels",
    }.get(variant, f"CALF with Swapno's {variant}")
    if small:
        recipe = ChunkRecipe(
            name="small-" + name,
            summary=summary + ", chunks of 60 s",
            features="demo",
            training=Training(epochs=50, patience=20),
            batch=16,
            rows=60,
            receptive_field=20,
            context=0.34,
            chunks=640,
            **shared,
        )
    else:
        recipe = ChunkRecipe(
            name=name, summary=summary, features="resnet", training=Training(epochs=1000), batch=32, **shared
        )
    return replace(recipe, **changes)


def calf_displacement(*, small: bool = False) -> ChunkRecipe:
    """Return CALF with an output that says by how much the action is off the row that an anchor points at."""
    summary = "CALF that moves its spots off the grid of rows by its displacement"
    if small:
        recipe = replace(calf_short(), name="small-calf-displacement", summary=summary + ", chunks of 30 s")
    else:
        recipe = calf(name="calf-displacement", summary=summary)
    return replace(recipe, max_displacement_s=3.0)


def calf_short() -> ChunkRecipe:
    """Return the small CALF with shorter chunks, in which an anchor's time is that much finer, and averaged weights."""
    return calf(
        small=True,
        name="small-calf-l30",
        summary="CALF, chunks of 30 s, averaged weights",
        training=Training(epochs=60, ema_decay=0.995),
        plateau=None,
        batch=32,
        rows=30,
        receptive_field=10,
        chunks=1280,
    )


_CALF_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    **VARIANTS,
    "Seg-Unequal": {"segmentation_kernels": (3, 7)},
}


def audiovid(*, small: bool = False) -> WindowRecipe:
    """Return AudioVid: NetVLAD over picture and over sound, joined before the last layers."""

    def build(widths: Widths, rows: int) -> nn.Module:
        return AudioVid(AudioVidConfig(widths, rows, **(_SMALL_VLAD if small else {})))

    def loss(net: nn.Module, rows: Rows, targets: Tensor) -> Tensor:
        assert isinstance(net, AudioVid)
        return audiovid_loss(net.logits(rows), targets, torch.ones(targets.shape[1], device=targets.device))

    return WindowRecipe(
        name="small-audiovid" if small else "audiovid",
        summary="AudioVid: NetVLAD of picture and of sound",
        features="demo" if small else "resnet",
        streams=("visual", "audio"),
        training=Training(epochs=4 * SMALL_EPOCHS, patience=15) if small else Training(epochs=200, patience=30),
        learning_rate=1e-3 if small else 1e-2,
        plateau=10,
        batch=32 if small else 60,
        rows=7 if small else 40,
        every=False,
        build=build,
        loss=loss,
        window_scores=_only,
    )


def baidu(head: str, *, small: bool = False) -> WindowRecipe:
    """Return a head over Baidu's features: "netvlad++" or "transformer" (approximated)."""
    streams = ("visual", "audio")[:1] if small else ("tpn", "gta", "vtn", "ircsn", "i3d")

    def build(widths: Widths, rows: int) -> nn.Module:
        if head == "netvlad++":
            return Pooling(PoolingConfig(widths, rows, head, **(_SMALL_VLAD if small else {})))
        return BaiduTransformer(BaiduConfig(widths, rows, d_model=128 if small else 512))

    return WindowRecipe(
        name=("small-" if small else "") + f"baidu-{head}",
        summary=f"Baidu's {head} over 7 s" + (" (sizes approximated)" if head == "transformer" else ""),
        features="demo" if small else "baidu",
        streams=streams,
        training=Training(epochs=SMALL_EPOCHS, patience=5) if small else Training(epochs=50, patience=4),
        batch=32,
        rows=7,
        every=True,
        build=build,
        loss=_nll,
        window_scores=_only,
    )


def cartas(*, small: bool = False) -> WindowRecipe:
    """Return NetVLAD++ of several streams: picture, sound and, as published, a graph of the players."""
    streams = ("visual", "audio") if small else ("visual", "audio", "graph")

    def build(widths: Widths, rows: int) -> nn.Module:
        return Cartas(CartasConfig(widths, rows=rows, **(_SMALL_VLAD if small else {})))

    return WindowRecipe(
        name="small-cartas" if small else "cartas",
        summary=f"NetVLAD++ of {len(streams)} streams ({', '.join(streams)})",
        features="demo" if small else "resnet",
        streams=streams,
        training=Training(epochs=4 * SMALL_EPOCHS, patience=15) if small else Training(epochs=1000),
        learning_rate=1e-3 if small else 1e-4,
        plateau=10,
        batch=32 if small else 256,
        rows=7 if small else 20,
        every=False,
        build=build,
        loss=_nll,
        window_scores=_only,
    )


def rmsnet(*, small: bool = False) -> ClipRecipe:
    """Return RMS-Net on ready-made rows; the small one learns by Adam, its data being too little for SGD's steps."""
    if small:
        return ClipRecipe(
            name="small-rmsnet",
            summary="RMS-Net: what happens in a clip of 11 s, and where in it",
            features="demo",
            streams=("visual",),
            training=Training(epochs=2 * SMALL_EPOCHS),
            weight_decay=1e-4,
            batch=32,
            rows=11,
            channels=(128, 64),
            hidden=64,
            clips=100,
            momentum=None,
        )
    return ClipRecipe(
        name="rmsnet",
        summary="RMS-Net: what happens in a clip of 20 s, and where in it",
        features="resnet2048",
        streams=("visual",),
        training=Training(epochs=50),
        learning_rate=2e-3,
        weight_decay=1e-4,
        batch=24,
    )


def recipes() -> dict[str, Callable[[], HeadRecipe]]:
    """Return every recipe of this module by name."""
    found: dict[str, Callable[[], HeadRecipe]] = {}
    for small in (False, True):
        prefix = "small-" if small else ""
        for row in (f"m{i}" for i in range(8)):
            found[f"{prefix}hmtas-{row}"] = partial(hmtas, row, small=small)
        found[f"{prefix}hmtas"] = partial(hmtas, small=small, name=f"{prefix}hmtas")
        for length in (2, 4, 5, 7):
            found[f"{prefix}hmtas-m7-l{length}"] = partial(hmtas, "m7", length, small=small)
        found[f"{prefix}hmtas-balanced"] = partial(
            hmtas,
            small=small,
            name=f"{prefix}hmtas-balanced",
            summary="HMTAS, each label drawn as often",
            balanced=True,
        )
        found[f"{prefix}hmtas-mixup"] = partial(
            hmtas, small=small, name=f"{prefix}hmtas-mixup", summary="HMTAS with balanced mix-up", mixup=0.2
        )
        for variant in _CALF_VARIANTS:
            recipe = calf(variant, small=small)
            found[recipe.name] = partial(calf, variant, small=small)
        found[f"{prefix}calf-displacement"] = partial(calf_displacement, small=small)
        for pool in POOLS:
            found[prefix + pool] = partial(pooling, pool, small=small)
        found[f"{prefix}audiovid"] = partial(audiovid, small=small)
        for head in ("netvlad++", "transformer"):
            found[f"{prefix}baidu-{head}"] = partial(baidu, head, small=small)
        found[f"{prefix}cartas"] = partial(cartas, small=small)
        found[f"{prefix}rmsnet"] = partial(rmsnet, small=small)
    found["small-calf-l30"] = calf_short
    return found
