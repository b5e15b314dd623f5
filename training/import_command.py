"""`touchline import`: weights of the original code in, a bundle for feature files out.

The bundle decides as its original does (its suppression, its windows, its threshold, over the whole half), and scores
as its original does, but for two mistakes that are not repeated: CALF's misplaced last chunk (`training.chunks.stitch`)
and HMTAS's attention over the batch (`HmtasConfig.attention`), which no single window can have.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor, nn

from engines.bundle import FORMAT_VERSION, Decision, HeadSpec, Manifest, ModalityStream, open_bundle
from engines.errors import DataError, UsageError
from engines.labels import SOCCERNET_LABELS
from training.encodings import K_SECONDS_V1
from training.export import ChunkHead, WindowHead, write_head_bundle
from training.importers import calf as calf_names
from training.importers import hmtas as hmtas_names
from training.importers import pooling as pooling_names
from training.importers.weights import read_weights
from training.models.calf import Calf, CalfConfig, Sign
from training.models.hmtas import Hmtas
from training.models.pooling import POOLS, Pooling, PoolingConfig
from training.windows import look_ahead_rows

State = Mapping[str, Tensor]

CALF_WINDOW_S = 20.0
POOLING_WINDOW_S = 30.0
OLDER_POOLING_WINDOW_S = 20.0
POOLING_ROWS_S, OLDER_POOLING_ROWS_S = 15, 20
HMTAS_WINDOWS_S = (12, 7, 20, 9, 9, 9, 9, 7, 7, 7, 7, 7, 20, 20, 9, 20, 20)
HMTAS_THRESHOLD = 0.2
"""NMS windows and threshold of the originals, and what pooling sees of a half at once. Source: CALF `main.py`;
`TemporallyAwarePooling` and `Pooling`, README; HMTAS `train.py`, and the thesis for its threshold (the code's default
is 0.5)."""
CALF_LABELS_V1, POOLING_LABELS_V1 = tuple(K_SECONDS_V1), ("card", "subs", "soccer")
"""SoccerNet-v1's labels, which the two codes put in different orders."""
_LONGEST = 1200  # rows of a window; a bundle may look 600 s ahead at most
_ANY = 1e-12  # CALF has no threshold; a score of 0 says that there is no anchor

_FEATURES = {512: ("ResNET_TF2_PCA512", 2), 2048: ("ResNET_TF2", 2), 8576: ("baidu_soccer_embeddings", 1)}
"""Width of a row → SoccerNet's feature files of that width, and their rows a second."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An original's network as a bundle needs it."""

    name: str
    head: nn.Module
    spec: HeadSpec
    streams: tuple[ModalityStream, ...]
    decision: Mapping[str, Decision]
    about: Mapping[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.description = (
        "Turn weights that the original code of CALF, HMTAS or the pooling family (NetVLAD++ and its kin) trained into "
        "a bundle, for `touchline spot` on SoccerNet's feature files. Weights are .pth, .pt or .tar as torch saves "
        "them, .npz or .safetensors; nothing in them is executed. Sizes and number of labels are read from them."
    )
    parser.epilog = (
        "example: touchline import calf CALF.pth.tar --out bundles/calf, then "
        "touchline spot 1_ResNET_TF2_PCA512.npy 2_ResNET_TF2_PCA512.npy --bundle bundles/calf --out results.json"
    )
    parser.add_argument("model", choices=sorted(_IMPORTERS), help="whose weights they are")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="the file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the bundle goes")
    parser.add_argument(
        "--features",
        type=_features,
        metavar="NAME",
        help="the feature files are {1,2}_NAME.npy (default: by their width)",
    )
    parser.add_argument("--rate", type=int, choices=(1, 2), help="their rows a second (default: by their width)")
    parser.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="the labels in order (default: SoccerNet's 17, or v1's 3)"
    )
    parser.add_argument(
        "--window",
        type=_window,
        metavar="ROWS",
        help="window length of HMTAS (default 3) or pooling (default 15 s, of the older code 20 s)",
    )
    parser.add_argument(
        "--pool",
        choices=POOLS,
        help="which pool; only max and avg cannot be told from the weights, nor can CALF's (max, or avg in Swapno's "
        "Pool variants; default max)",
    )
    parser.add_argument(
        "--older",
        action="store_true",
        help="the max pooling is of the older code (SoccerNet's Pooling baselines): windows of 20 s, suppression "
        "within 20 s; its NetVLAD is known by its weights",
    )
    parser.add_argument(
        "--sign",
        choices=[sign.value for sign in Sign],
        default=Sign.ACTION_LOW.value,
        help="which end CALF's segmentation was trained towards at an action; noted in the bundle (default: as in the "
        "published weights)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the bundle."""
    if args.older and args.model != "pooling":
        raise UsageError(f"--older is for weights of pooling, not of {args.model}.")
    found = _converted(args)
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=found.name,
        labels=tuple(found.decision),
        streams=found.streams,
        head=found.spec,
        decision=found.decision,
        provenance={"imported": args.weights.name, "torch": torch.__version__, **found.about},
        sha256={},
    )
    write_head_bundle(args.out, found.head, manifest)
    open_bundle(args.out)  # says so if it could not be used
    wanted = " and ".join(dict.fromkeys(f"{{1,2}}_{manifest.features_of(s)}.npy" for s in manifest.streams))
    said = f"bundle {found.name} is in {args.out}; it spots on {wanted}"
    Console(stderr=True).print(said, highlight=False, markup=False)
    return 0


def _converted(args: argparse.Namespace) -> Imported:
    """Return the weights' network; what is wrong with them is said in a sentence that names the file."""
    state = read_weights(args.weights)
    try:
        return _IMPORTERS[args.model](state, args)
    except DataError as error:
        raise DataError(f"{args.weights}: {error}") from error
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise DataError(f"{args.weights}: holds no weights of {args.model}: {error} is not as there.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{args.weights}: makes no bundle of {args.model}: {where}: {first['msg']}.") from error
    except ValueError as error:
        raise DataError(f"{args.weights}: makes no {args.model}: {error}.") from error


def _calf(state: State, args: argparse.Namespace) -> Imported:
    anchors = state["conv_conf.weight"].shape[0] // 2
    labels = _labels(state["conv_class.weight"].shape[0] // anchors, args, CALF_LABELS_V1)
    if args.pool not in (None, "max", "avg"):
        raise UsageError(f"CALF pools by max or avg, not by {args.pool}.")
    width, rows, receptive_field = (
        state["conv_1.weight"].shape[-1],
        state["batch_seg.weight"].shape[0],
        state["conv_p_4.weight"].shape[2],
    )
    split = sorted(name for name in state if name.startswith("conv_seg") and name.endswith("weight"))
    config = CalfConfig(
        {"visual": width},
        rows=rows,
        receptive_field=receptive_field,
        anchors=anchors,
        capsules=sum(state[name].shape[0] for name in split) // len(labels),
        base_layers=6 if "conv_6.weight" in state else 2,
        segmentation_kernels=tuple(state[name].shape[2] for name in split),
        pooling=args.pool or "max",
        labels=labels,
    )
    net = Calf(config)
    net.load_state_dict(calf_names.convert(state, config))
    stream = _stream("visual", width, args)
    spec = HeadSpec(
        file="head.onnx",
        kind="calf",
        rows=rows,
        look_ahead_s=config.layout.border / stream.rate,
        outputs="chunk",
        window_stride_rows=config.layout.hop,
        edges="inside",
        row_time_s=0,
    )
    decision = {label: Decision(rule="greedy", threshold=_ANY, window_s=CALF_WINDOW_S) for label in labels}
    return Imported(
        "calf", ChunkHead(net.eval(), as_original=True), spec, (stream,), decision, {"segmentation": args.sign}
    )


def _pooling(state: State, args: argparse.Namespace) -> Imported:
    labels = _labels(state["fc.weight"].shape[0] - 1, args, POOLING_LABELS_V1)
    projected = state.get("feature_extractor.weight")
    d_model = projected.shape[0] if projected is not None else 512
    width = projected.shape[1] if projected is not None else d_model
    pool = args.pool or _pool_of(state, d_model, args.older)
    older = _is_older(state, pool, args.older)
    clusters = state["fc.weight"].shape[1] // d_model if "vlad" in pool else 64
    stream = _stream("visual", width, args)
    rows = args.window or (OLDER_POOLING_ROWS_S if older else POOLING_ROWS_S) * stream.rate
    config = PoolingConfig({"visual": width}, rows, pool, clusters=clusters, d_model=d_model, labels=labels)
    net = Pooling(config)
    net.load_state_dict(pooling_names.convert(state, config))
    window_s = OLDER_POOLING_WINDOW_S if older else POOLING_WINDOW_S
    threshold = 0.5 if older and pool == "netvlad" else 0.0
    decision = {label: Decision(rule="greedy", threshold=threshold, window_s=window_s) for label in labels}
    spec = _window_spec(pool, rows, stream.rate, unscored_rows=1)
    return Imported(pool.replace("+", "p"), WindowHead(net.eval(), ["visual"], _only), spec, (stream,), decision, {})


def _is_older(state: State, pool: str, said: bool) -> bool:
    """Return whether the older code trained the weights: its NetVLAD has names of its own, its max must be said."""
    named = "pool_layer.conv.weight" in state or "pool_layer.centroids" in state
    if said and not named and pool != "max":
        raise UsageError(f"The older code has no {pool} with these weights; leave --older out.")
    return named or said


def _pool_of(state: State, d_model: int, older: bool) -> str:
    """Return which pool the tensors' names tell."""
    doubled = any(name.startswith("pool_layer_before.") for name in state)
    if doubled or any(name.startswith("pool_layer.") for name in state):
        centres = any(name.endswith(("clusters2", "centroids")) for name in state)
        return ("netvlad" if centres else "netrvlad") + ("++" if doubled else "")
    plus = "++" if state["fc.weight"].shape[1] == 2 * d_model else ""
    if older and not plus:
        return "max"  # the older code has no avg
    raise UsageError(f"The weights of max{plus} and avg{plus} look alike; say which (--pool max{plus} or avg{plus}).")


def _hmtas(state: State, args: argparse.Namespace) -> Imported:
    config = hmtas_names.original_config(state["conv1A.weight"].shape[1], rows=args.window or 3)
    labels = _labels(state["fc_mix.weight"].shape[0] - 1, args, ())
    if labels != config.labels:
        raise UsageError("HMTAS has NMS windows for SoccerNet's 17 labels alone; leave --labels out.")
    net = Hmtas(config)
    net.load_state_dict(hmtas_names.convert(state, config))
    features, rate = args.features or "baidu_soccer_embeddings", args.rate or 1
    streams, first = [], 0
    for name, width in hmtas_names.BAIDU_WIDTHS.items():
        streams.append(_own_stream(name, "visual", features, rate, width, (first, first + width)))
        first += width
    streams.append(_own_stream("audio", "audio", "audio", rate, config.widths["audio"]))
    decision = {
        label: Decision(rule="greedy", threshold=HMTAS_THRESHOLD, window_s=window_s)
        for label, window_s in zip(labels, HMTAS_WINDOWS_S, strict=True)
    }
    names = [stream.name for stream in streams]
    spec = _window_spec("hmtas", config.rows, rate, unscored_rows=2)
    return Imported(
        "hmtas", WindowHead(net.eval(), names, _first), spec, tuple(streams), decision, {"attention": "window"}
    )


_IMPORTERS: Mapping[str, Callable[[State, argparse.Namespace], Imported]] = {
    "calf": _calf,
    "hmtas": _hmtas,
    "pooling": _pooling,
}


def _window_spec(kind: str, rows: int, rate: int, unscored_rows: int) -> HeadSpec:
    return HeadSpec(
        file="head.onnx",
        kind=kind,
        rows=rows,
        look_ahead_s=look_ahead_rows(rows) / rate,
        edges="repeat",
        row_time_s=0,
        unscored_rows=unscored_rows,
    )


def _labels(count: int, args: argparse.Namespace, v1: tuple[str, ...]) -> tuple[str, ...]:
    """Return as many labels as the weights have; `v1` are SoccerNet-v1's in the order of the original."""
    known = {len(SOCCERNET_LABELS): SOCCERNET_LABELS, len(v1): v1}
    labels = tuple(args.labels) if args.labels else known.get(count)
    if count < 1:
        raise DataError(f"holds no weights of {args.model}: there is no label in them.")
    if labels is None or len(labels) != count:
        raise UsageError(f"The weights have {count} labels; name them in order (--labels).")
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise UsageError(f"--labels names {', '.join(twice)} more than once; every label has a name of its own.")
    return labels


def _stream(name: str, width: int, args: argparse.Namespace) -> ModalityStream:
    """Return a stream of rows of this width."""
    features, rate = _FEATURES.get(width, (args.features, args.rate))
    features, rate = args.features or features, args.rate or rate
    if features is None or rate is None:
        raise UsageError(
            f"Rows are {width} wide; say which feature files that is (--features) and their rate (--rate)."
        )
    return _own_stream(name, "visual", features, rate, width)


def _own_stream(
    name: str, modality: str, features: str, rate: int, width: int, columns: tuple[int, int] | None = None
) -> ModalityStream:
    return ModalityStream.model_validate(
        {"name": name, "modality": modality, "file": None, "features": features, "rate": rate, "width": width}
        | {"columns": columns}
    )


def _only(net: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
    scores: Tensor = net(rows)
    return scores


def _first(net: nn.Module, rows: Mapping[str, Tensor]) -> Tensor:
    scores: Tensor = net(rows)[0]
    return scores


def _window(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _LONGEST:
        raise argparse.ArgumentTypeError(f"{text}: a window has 1 to {_LONGEST} rows")
    return value


def _features(text: str) -> str:
    if not text or "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: give a name without a folder, e.g. ResNET_TF2, not a path")
    return text
