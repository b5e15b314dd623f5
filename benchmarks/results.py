"""Every model of both papers on one set of matches, three seeds each: the tables of docs/results.md.

    make results DATA=path/to/matches

embeds the matches with the shipped front ends, trains the small recipes on the features (two at a time, one thread
each), and writes the tables. A run that is there already is kept, so the command can be stopped and started again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from training.scoring import Scored

SEEDS = (1, 2, 3)
HMTAS_ROWS = tuple(f"small-hmtas-m{i}" for i in range(8))
LENGTHS = {2: "small-hmtas-m7-l2", 3: "small-hmtas-m7", 4: "small-hmtas-m7-l4", 5: "small-hmtas-m7-l5"}
CALFS = ("small-calf", "small-calf-pool", "small-calf-base-pool", "small-calf-seg-pool", "small-calf-base-seg-pool")
POOLS = ("max", "max++", "avg", "avg++", "netvlad", "netvlad++", "netrvlad", "netrvlad++")
RECIPES = (
    *HMTAS_ROWS,
    *(name for length, name in LENGTHS.items() if length != 3),
    *(f"small-{pool}" for pool in POOLS),
    "small-audiovid",
    "small-cartas",
    "small-baidu-netvlad++",
    "small-baidu-transformer",
    *CALFS,
)
ENSEMBLES = ("mean", "weighted", "squared", "learned")
METRICS = ("tight", "loose")

Values = Mapping[str, float]


@dataclass(frozen=True)
class Claim:
    """Something a paper says: `better` beats `worse`, by so many points of Average-mAP there."""

    text: str
    better: str
    worse: str
    published: str
    metric: str = "tight"


CLAIMS = (
    Claim("shorter windows help an FCNN (M1 over M0)", "small-hmtas-m1", "small-hmtas-m0", "+2.70"),
    Claim("an encoder layer helps (M2 over M1)", "small-hmtas-m2", "small-hmtas-m1", "+7.43"),
    Claim("a second layer helps (M3 over M2)", "small-hmtas-m3", "small-hmtas-m2", "+0.09"),
    Claim("a hierarchy of streams helps (M4 over M3)", "small-hmtas-m4", "small-hmtas-m3", "+0.41"),
    Claim("class weights help (M5 over M4)", "small-hmtas-m5", "small-hmtas-m4", "+4.53"),
    Claim("sound helps (M6 over M5)", "small-hmtas-m6", "small-hmtas-m5", "+1.72"),
    Claim("intermediate supervision helps (M7 over M6)", "small-hmtas-m7", "small-hmtas-m6", "+0.51"),
    Claim("L = 3 beats L = 2", "small-hmtas-m7", "small-hmtas-m7-l2", "+3.18"),
    Claim("L = 3 beats L = 4", "small-hmtas-m7", "small-hmtas-m7-l4", "+5.41"),
    Claim("L = 3 beats L = 5", "small-hmtas-m7", "small-hmtas-m7-l5", "+3.77"),
    Claim("one model beats the mean of four", "small-hmtas-m7", "ensemble-mean", "+0.30"),
    Claim("one model beats learned fusion", "small-hmtas-m7", "ensemble-learned", "+0.36"),
    Claim("average pooling helps CALF (Pool)", "small-calf-pool", "small-calf", "+1.9", "loose"),
    Claim("Seg+Pool beats CALF", "small-calf-seg-pool", "small-calf", "+1.1", "loose"),
    Claim("CALF beats Base+Pool", "small-calf", "small-calf-base-pool", "+1.0", "loose"),
    Claim("Base+Seg+Pool beats CALF", "small-calf-base-seg-pool", "small-calf", "+2.7", "loose"),
    Claim("NetVLAD++ beats NetVLAD", "small-netvlad++", "small-netvlad", "+3.2", "loose"),
    Claim("NetVLAD beats max pooling", "small-netvlad", "small-max", "+12.8", "loose"),
    Claim("sound helps NetVLAD (AudioVid)", "small-audiovid", "small-netvlad", "yes", "loose"),
    Claim("Baidu's transformer beats NetVLAD++", "small-baidu-transformer", "small-baidu-netvlad++", "yes", "loose"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of matches with videos")
    parser.add_argument("--work", type=Path, default=Path("cache/results"), help="features and runs")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"), help="the page whose tables are written")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", help="train these only")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time (default 2)")
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    features, runs = args.work / "features", args.work / "runs"
    if args.one:
        train(args.one[0], int(args.one[1]), features, runs)
        return
    if args.data is not None:
        subprocess.run([sys.executable, "-m", "streamer", "embed", args.data, "--out", features], check=True)
    train_all(args.only or RECIPES, args)
    for seed in SEEDS:
        ensembles(seed, features, runs)
        calf_live(seed, features, runs)
    write_page(args.out, tables(results(runs)) + "\n".join([*live_table(runs), ""]))


def train_all(names: Sequence[str], args: argparse.Namespace) -> None:
    """Train what is not there yet, each in a process of its own."""
    wanted = [(name, seed) for seed in SEEDS for name in names]
    missing = [(n, s) for n, s in wanted if not record_of(args.work / "runs", n, s).exists()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def one(job: tuple[str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.results", "--work", args.work, "--one", job[0], str(job[1])]
        subprocess.run(command, check=True, env=environment)
        print(f"{time.strftime('%H:%M:%S')} {job[0]}, seed {job[1]}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(one, job) for job in missing]:
            done.result()


def record_of(runs: Path, name: str, seed: int) -> Path:
    return runs / f"{name}-{seed}" / "result.json"


def train(name: str, seed: int, features: Path, runs: Path) -> None:
    """Train one recipe with one seed, choose on valid, measure on test; keep figures and scores."""
    import torch

    from training.fit import fit, prepare_torch
    from training.recipes.papers import recipes

    recipe = recipes()[name]()
    training = replace(recipe.training, seed=seed, threads=1)
    halves = {split: recipe.halves(features, split) for split in ("train", "valid", "test")}
    prepare_torch(training)
    task = recipe.task(halves["train"], halves["valid"], seed)
    folder = runs / f"{name}-{seed}"
    started = time.process_time()
    fitted = fit(task, training, folder / "run", resume=(folder / "run" / "last.ckpt").exists())
    seconds = time.process_time() - started
    with torch.no_grad():
        scored = {split: [task.score(fitted.net, half.load()) for half in found] for split, found in halves.items()}
    figures = judge(scored["valid"], scored["test"], recipe.labels)
    record = {
        **figures,
        "cpu_s": seconds,
        "epochs": len(fitted.history),
        "parameters": sum(p.numel() for p in fitted.net.parameters()),
    }
    arrays = {f"{split}_{i}": s.scores_TC for split, found in scored.items() for i, s in enumerate(found)}
    np.savez_compressed(folder / "scores.npz", allow_pickle=False, **arrays)
    record_of(runs, name, seed).write_text(json.dumps(record))


def judge(valid: "Sequence[Scored]", test: "Sequence[Scored]", labels: Sequence[str]) -> dict[str, float]:
    """Return test's Average-mAP over the labels that occur, with the radius that is best on valid."""
    from training.choice import WIDE_REACHES_S
    from training.scoring import measure

    tried = [dict.fromkeys(labels, radius_s) for radius_s in WIDE_REACHES_S]
    radii = max(tried, key=lambda radii: measure(valid, labels, radii).overall.mean)
    found = {metric: measure(test, labels, radii, metric) for metric in METRICS}
    on_valid = measure(valid, labels, radii).occurring_mean
    return {metric: result.occurring_mean for metric, result in found.items()} | {
        "valid_tight": on_valid,
        "radius_s": radii[labels[0]],
    }


def ensembles(seed: int, features: Path, runs: Path) -> None:
    """Combine HMTAS with windows of 2 to 5 s in each of the thesis's ways."""
    import torch

    from training.data.features import action_rows
    from training.models.ensemble import Fusion, FusionConfig, fusion_loss, fusion_windows, mean_scores
    from training.recipes.papers import recipes
    from training.windows import training_targets

    records = [record_of(runs, name, seed) for name in LENGTHS.values()]
    if not all(path.exists() for path in records):
        return
    recipe = recipes()["small-hmtas-m7"]()
    halves = {split: recipe.halves(features, split) for split in ("train", "valid", "test")}
    files = [np.load(path.parent / "scores.npz") for path in records]
    stacks = {
        split: [np.stack([file[f"{split}_{i}"] for file in files]) for i in range(len(found))]
        for split, found in halves.items()
    }
    goodness = [json.loads(path.read_text())["valid_tight"] for path in records]

    def judged(combine: Callable[[np.ndarray], np.ndarray], kind: str, seconds: float) -> None:
        scored: dict[str, list[Scored]] = {"valid": [], "test": []}
        for split in scored:
            for half, stack in zip(halves[split], stacks[split], strict=True):
                scores = combine(stack)
                times = ((np.arange(len(scores)) + 0.25) * 1e6).astype(np.int64)[:, None]  # L even: 0, odd: 0.5
                scored[split].append(Scored(half.actions, scores, np.broadcast_to(times, scores.shape)))
        path = record_of(runs, f"ensemble-{kind}", seed)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(judge(scored["valid"], scored["test"], recipe.labels) | {"cpu_s": seconds}))

    for kind in ("mean", "weighted", "squared"):
        judged(partial(mean_scores, validation_scores_M=goodness, kind=kind), kind, 0.0)

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    started = time.process_time()
    fusion = Fusion(FusionConfig(models=len(files), feed_forward=256))  # trained on valid, as the original
    windows = torch.from_numpy(np.concatenate([fusion_windows(stack) for stack in stacks["valid"]]))
    targets = torch.from_numpy(
        np.concatenate([training_targets(action_rows(h, recipe.labels), h.length, 1)[:, 1:] for h in halves["valid"]])
    )
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-3)
    for _ in range(30):
        for batch in torch.randperm(len(windows)).split(128):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            fusion_loss(fusion(windows[batch]), targets[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    fusion.eval()

    def fused(stack: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            scores = fusion(torch.from_numpy(fusion_windows(stack))).numpy()
        return np.concatenate([scores, np.zeros((stack.shape[1] - len(scores), scores.shape[1]), np.float32)])

    judged(fused, "learned", time.process_time() - started)


HOPS_S = (1, 5, 10, 20, 40)


def calf_live(seed: int, features: Path, runs: Path) -> None:
    """Judge CALF as the live path scores it, its chunk sliding by some hops; radius chosen under that scoring."""
    import tempfile

    import torch

    from engines.bundle import FORMAT_VERSION, Decision, Manifest, open_bundle
    from engines.frontend import embeddings_of
    from training.export import write_head_bundle
    from training.measure import scored
    from training.models.calf import Calf
    from training.recipes.heads import ChunkRecipe
    from training.recipes.papers import recipes

    folder = record_of(runs, CALFS[0], seed).parent
    if (folder / "live.json").exists() or not (folder / "run" / "best.ckpt").exists():
        return
    recipe = recipes()[CALFS[0]]()
    assert isinstance(recipe, ChunkRecipe)
    halves = {split: recipe.halves(features, split) for split in ("valid", "test")}
    net = Calf(recipe.config(halves["test"][0].widths))
    net.load_state_dict(torch.load(folder / "run" / "best.ckpt", weights_only=True)["net"])
    found = {}
    for hop_s in HOPS_S:
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name="calf",
            labels=recipe.labels,
            streams=recipe.modality_streams(halves["test"][0].widths, None),
            head=replace(recipe, hop_s=float(hop_s)).spec(),
            decision=dict.fromkeys(recipe.labels, Decision(threshold=0.5, radius_s=1)),
            sha256={},
        )
        with tempfile.TemporaryDirectory() as path:
            write_head_bundle(Path(path), recipe.head(net.eval()), manifest)
            bundle = open_bundle(Path(path))
            said = {
                split: [scored(bundle, embeddings_of(h.read(), bundle.manifest), h.actions) for h in some]
                for split, some in halves.items()
            }
        look_ahead_s = bundle.manifest.look_ahead_s(bundle.manifest.labels[0])
        found[str(hop_s)] = judge(said["valid"], said["test"], recipe.labels) | {"look_ahead_s": look_ahead_s}
    (folder / "live.json").write_text(json.dumps(found))


def live_table(runs: Path) -> list[str]:
    """Return what CALF's hop costs in delay and gives in accuracy."""
    paths = [record_of(runs, CALFS[0], seed).parent / "live.json" for seed in SEEDS]
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not records:
        return []
    lines = ["", "| CALF live: hop, s | look-ahead and wait, s | tight | loose |", "|---|---|---|---|"]
    for hop_s in map(str, HOPS_S):
        cells = [spread([record[hop_s][metric] for record in records]) for metric in METRICS]
        lines.append(f"| {hop_s} | {records[0][hop_s]['look_ahead_s']:g} | {' | '.join(cells)} |")
    return lines


def results(runs: Path) -> dict[str, list[Values]]:
    """Return the records of every seed by name, as far as they are there."""
    names = [*RECIPES, *(f"ensemble-{kind}" for kind in ENSEMBLES)]
    found = {name: [record_of(runs, name, seed) for seed in SEEDS] for name in names}
    return {
        name: [json.loads(path.read_text()) for path in paths if path.exists()]
        for name, paths in found.items()
        if any(path.exists() for path in paths)
    }


BEGIN, END = "<!-- tables: written by `make results` -->", "<!-- end of tables -->"


def write_page(page: Path, content: str) -> None:
    """Put the tables between the page's two marks."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Results\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{content}\n{END}{after}", encoding="utf-8")


def tables(found: Mapping[str, Sequence[Values]]) -> str:
    lines = [
        "| model | tight | loose | parameters | radius, s | epochs | training, CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, records in found.items():
        cells = [
            name.removeprefix("small-"),
            *(spread([r[metric] for r in records]) for metric in METRICS),
            f"{records[0]['parameters']:,.0f}" if "parameters" in records[0] else "",
            ", ".join(f"{r['radius_s']:g}" for r in records),
            f"{statistics.mean(r['epochs'] for r in records):.0f}" if "epochs" in records[0] else "",
            f"{statistics.mean(r['cpu_s'] for r in records):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| claim | published | here | seeds for it | verdict |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        if claim.better not in found or claim.worse not in found:
            continue
        pairs = zip(found[claim.better], found[claim.worse], strict=False)  # a run may be under way
        gains = [100 * (a[claim.metric] - b[claim.metric]) for a, b in pairs]
        agreeing = sum(gain > 0 for gain in gains)
        verdict = {0: "does not hold", len(gains): "holds"}.get(agreeing, "undecided")
        here = f"{statistics.mean(gains):+.1f} ± {deviation(gains):.1f} ({claim.metric})"
        lines.append(f"| {claim.text} | {claim.published} | {here} | {agreeing} of {len(gains)} | {verdict} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    """Return mean ± standard deviation, in percent."""
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation(values):.1f}"


def deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
