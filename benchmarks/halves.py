"""A half of features to spots, end to end: the originals' loops against ours, in one run on one thread.

    python benchmarks/halves.py [--minutes 45] [--only calf|hmtas]

CALF has 5400 rows of 512 (2 a second), HMTAS 2700 rows of 8704 (1 a second), networks of the published size with random
weights. The originals' side has the same network in torch, fed and read as their code does; ours is the exported graph
in ONNX Runtime behind window, head and decider. The floor is the network alone, on windows that are ready: the sums
are the same on both sides.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from original_loops import suppressed
from rich.console import Console
from rich.table import Table
from torch import Tensor

from engines.bundle import Bundle, open_bundle
from engines.frontend import embeddings_of
from streamer.cli import main as main_command
from training.import_command import HMTAS_THRESHOLD, HMTAS_WINDOWS_S
from training.importers import calf as calf_names
from training.importers import hmtas as hmtas_names
from training.measure import spot
from training.models.calf import Calf, CalfConfig
from training.models.hmtas import Hmtas

RECIPES = Path(__file__).parent.parent / "tests" / "originals" / "weight_recipes.json"

Spots = list[tuple[int, int, float]]
Half = tuple[str, Callable[[], Spots], Callable[[], Spots], Callable[[], object]]


def calf_original(net: Calf, features_TD: Tensor) -> Spots:
    """Return the spots of a half as CALF's `testSpotting`, `timestamps2long` and `NMS` do (the last chunk mended)."""
    rows, chunk, border, hop = len(features_TD), 240, 40, 160
    starts = [*range(0, rows - chunk, hop), rows - chunk]
    chunks = torch.zeros(len(starts), chunk, features_TD.shape[1])
    for i, start in enumerate(starts):
        for row in range(chunk):
            chunks[i, row] = features_TD[start + row]
    with torch.no_grad():
        anchors = net({"visual": chunks})[1].numpy()
    long_TC = np.full((rows, 17), -1.0)
    for i, start in enumerate(starts):
        one = np.full((chunk, 17), -1.0)
        for anchor in anchors[i]:
            one[int(np.floor(anchor[1] * (chunk - 1))), int(np.argmax(anchor[2:]))] = anchor[0]
        first = 0 if i == 0 else border
        last = chunk if i == len(starts) - 1 else chunk - border
        long_TC[start + first : start + last] = one[first:last]
    found = suppressed(long_TC, 40)
    return [(row, c, found[row, c]) for c in range(17) for row in range(rows) if found[row, c] >= 0]


def hmtas_original(net: Hmtas, features: dict[str, Tensor]) -> Spots:
    """Return the spots of a half as HMTAS's `feats2clip`, `testSpotting` and `get_spot_from_NMS` do."""
    rows, batch = len(features["audio"]), 256
    windows = [[min(max(t + d, 0), rows - 1) for d in (-1, 0, 1)] for t in range(rows - 1)]
    clips = {name: torch.stack([x[window] for window in windows]) for name, x in features.items()}
    scores = []
    with torch.no_grad():
        for start in range(0, len(windows), batch):
            end = start + batch if start + batch < len(windows) else len(windows) - 1
            scores.append(net({name: x[start:end] for name, x in clips.items()})[0].numpy())
    scores_TC = np.concatenate(scores)[:, 1:].astype(np.float64)
    spots: Spots = []
    for c in range(17):
        left, window = scores_TC[:, c].copy(), HMTAS_WINDOWS_S[c]
        while np.max(left) >= HMTAS_THRESHOLD:
            row = int(np.argmax(left))
            spots.append((row, c, float(np.max(left))))
            left[max(int(row - window / 2), 0) : min(row + int(window / 2), len(left))] = -1
    return spots


def random_weights(model: str) -> dict[str, Tensor]:
    """Return weights under the original's names, normal and scaled by their fan-in."""
    torch.manual_seed(0)
    tensors = json.loads(RECIPES.read_text())[model]["tensors"]
    state = {t["name"]: torch.randn(t["shape"]) / max(1, math.prod(t["shape"][1:])) ** 0.5 for t in tensors}
    return {name: x.abs() + 0.5 if name.endswith("running_var") else x for name, x in state.items()}


def imported(model: str, state: dict[str, Tensor], folder: Path) -> Bundle:
    """Return the bundle that `touchline import` makes of an original's weights."""
    torch.save(state, folder / "weights.pth")
    if main_command(["import", model, str(folder / "weights.pth"), "--out", str(folder / model)]):
        raise SystemExit("the weights could not be imported")
    return open_bundle(folder / model)


def ours(bundle: Bundle, features: dict[str, Tensor]) -> Spots:
    """Return the spots of a half as `touchline spot` finds them."""
    manifest = bundle.manifest
    rows = {name: x.numpy() for name, x in features.items()}
    found = spot(bundle, embeddings_of(rows, manifest))
    return [(round(s.media_time * manifest.rate), manifest.labels.index(s.label), s.confidence) for s in found]


def calf_half(folder: Path, minutes: int) -> Half:
    state = random_weights("calf_c17")
    net = Calf(CalfConfig({"visual": 512})).eval()
    net.load_state_dict(calf_names.convert(state, net.config))
    bundle, features = imported("calf", state, folder), torch.randn(minutes * 120, 512)
    chunks = features[: minutes * 120 // 160 * 160].unfold(0, 240, 160).transpose(1, 2).contiguous()
    return (
        f"CALF, {minutes} minutes",
        lambda: calf_original(net, features),
        lambda: ours(bundle, {"visual": features}),
        lambda: net({"visual": chunks}),
    )


def hmtas_half(folder: Path, minutes: int) -> Half:
    state = random_weights("hmtas")
    net = Hmtas(hmtas_names.original_config()).eval()
    net.load_state_dict(hmtas_names.convert(state, net.config))
    bundle, seconds = imported("hmtas", state, folder), minutes * 60
    features = {name: torch.randn(seconds, width) for name, width in net.config.widths.items()}
    ready = {name: x.unfold(0, 3, 1).transpose(1, 2).contiguous() for name, x in features.items()}
    return (
        f"HMTAS, {minutes} minutes",
        lambda: hmtas_original(net, features),
        lambda: ours(bundle, features),
        lambda: [net({name: x[i : i + 256] for name, x in ready.items()}) for i in range(0, seconds - 2, 256)],
    )


def cpu_s(work: Callable[[], object], runs: int) -> float:
    """Return the best CPU time of some runs."""
    times = []
    for _ in range(runs):
        started = time.process_time()
        with torch.no_grad():
            work()
        times.append(time.process_time() - started)
    return min(times)


def same(one: Spots, other: Spots) -> bool:
    """Return whether two lists hold the same spots; confidences may differ in their last digits."""
    return [s[:2] for s in sorted(one)] == [s[:2] for s in sorted(other)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=45, help="length of the half (default 45)")
    parser.add_argument("--only", choices=["calf", "hmtas"])
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="A half end to end, CPU time of one thread")
    for column in ("what", "original", "ours", "ratio", "network alone", "ours / network", "same spots"):
        table.add_column(column, justify="left" if column == "what" else "right")
    halves = {"calf": calf_half, "hmtas": hmtas_half}
    for model in [args.only] if args.only else halves:
        with tempfile.TemporaryDirectory() as folder:
            name, original, own, network = halves[model](Path(folder), args.minutes)
            equal = same(original(), own())
            slow, fast, floor = (cpu_s(work, args.runs) for work in (original, own, network))
        cells = (f"{slow:.2f} s", f"{fast:.2f} s", f"{slow / fast:.2f} ×", f"{floor:.2f} s", f"{fast / floor:.2f}")
        table.add_row(name, *cells, "yes" if equal else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
