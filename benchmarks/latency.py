"""What a promised delay costs in accuracy: the curves and tables of docs/latency.md.

    make latency DATA=path/to/matches

embeds the matches with the front ends of FRONT_ENDS, trains every head three times on the features (two at a time, one
thread each), chooses how each is to decide on the valid split, and measures A(D) on the test split: the words of the
live path's own window, head and decider. What is there already is kept, so it can be stopped and started again.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from training.deadlines import DEADLINES_S

if TYPE_CHECKING:
    from engines.bundle import Bundle, Manifest
    from training.recipes.heads import HeadRecipe
    from training.scoring import Recorded

SEEDS = (1, 2, 3)
PROMISES_S = (2.0, 3.0, 4.0, 5.0, 8.0)
"""Deadlines that a head is chosen for."""
FRONT_ENDS = Path("cache/front-ends")
Curve = list[float]


@dataclass(frozen=True)
class Head:
    """A head of the table: a recipe with some fields changed."""

    text: str
    recipe: str
    changes: Mapping[str, Any]


HEADS: Mapping[str, Head] = {
    "hmtas-plain": Head(
        "HMTAS, 4 s ahead, no displacement",
        "small-hmtas-live",
        {"look_aheads": (4,), "max_displacement_s": 0.0},
    ),
    "hmtas-4": Head("HMTAS, 4 s ahead", "small-hmtas-live", {"look_aheads": (4,)}),
    "hmtas-1": Head("HMTAS, 1 s ahead", "small-hmtas-live", {"look_aheads": (1,)}),
    "hmtas-sampled": Head("HMTAS, 0 to 8 s ahead", "small-hmtas-live", {}),
    "hmtas-taught": Head("HMTAS, 0 to 8 s ahead, taught by 8 s", "small-hmtas-live", {"distil_share": 0.5}),
    "calf": Head("CALF, no displacement", "small-calf-l30", {"hop_s": 5.0}),
    "calf-displacement": Head("CALF", "small-calf-displacement", {"hop_s": 5.0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of matches with videos")
    parser.add_argument("--features", type=Path, default=Path("cache/results/features"))
    parser.add_argument("--work", type=Path, default=Path("cache/latency"), help="runs and bundles")
    parser.add_argument("--page", type=Path, default=Path("docs/latency.md"), help="the page whose tables are written")
    parser.add_argument("--only", nargs="+", choices=list(HEADS), help="train these only")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--one", nargs=2, metavar=("HEAD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one[0], int(args.one[1]), args.features, args.work)
        return
    if args.data is not None:
        embed = ["embed", str(args.data), "--bundle", str(FRONT_ENDS), "--out", str(args.features)]
        subprocess.run([sys.executable, "-m", "streamer", *embed], check=True)
    run_all(args.only or list(HEADS), args)
    found = results(args.work)
    write_page(args.page, found)
    draw(args.page.with_suffix(".png"), found)


def run_all(names: Sequence[str], args: argparse.Namespace) -> None:
    """Train and measure what is not there yet, each in a process of its own."""
    wanted = [(name, seed) for seed in SEEDS for name in names]
    missing = [(n, s) for n, s in wanted if not record_of(args.work, n, s).exists()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(job: tuple[str, int]) -> None:
        command = [sys.executable, "-m", "benchmarks.latency", "--work", args.work, "--features", args.features]
        subprocess.run([*command, "--one", job[0], str(job[1])], check=True, env=environment)
        print(f"{time.strftime('%H:%M:%S')} {job[0]}, seed {job[1]}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        for done in [pool.submit(run, job) for job in missing]:
            done.result()


def record_of(work: Path, name: str, seed: int) -> Path:
    return work / f"{name}-{seed}" / "result.json"


def one(name: str, seed: int, features: Path, work: Path) -> None:
    """Train one head with one seed, choose on valid, measure on test, and keep the figures."""
    folder = work / f"{name}-{seed}"
    started = time.process_time()
    if not (folder / "bundle" / "manifest.json").exists():
        train(name, seed, features, folder)
    cpu_s = time.process_time() - started
    record = {"curves": dict(measured_ways(folder / "bundle", features)), "cpu_s": cpu_s}
    record_of(work, name, seed).write_text(json.dumps(record))


def train(name: str, seed: int, features: Path, folder: Path) -> None:
    from rich.console import Console

    from training.fit import fit, prepare_torch
    from training.recipes import RECIPES, Options

    recipe: HeadRecipe = replace(RECIPES[HEADS[name].recipe](), **HEADS[name].changes)  # type: ignore[assignment,type-var]
    options = Options(seed=seed, front_ends=FRONT_ENDS)
    training = replace(options.applied(recipe.training), threads=1)
    prepare_torch(training)
    console = Console(stderr=True, quiet=True)
    task = recipe.prepare(features, Path("cache"), console, options)
    fitted = fit(task, training, folder / "run", resume=(folder / "run" / "last.ckpt").exists(), console=console)
    provenance = {"recipe": HEADS[name].recipe, "changes": json.loads(json.dumps(HEADS[name].changes)), "seed": seed}
    recipe.write(task, fitted.net, folder / "bundle", provenance)


def measured_ways(path: Path, features: Path) -> Iterator[tuple[str, Curve]]:
    """Yield each way to decide, and A(D) tight of what is said on test: as the rule settles, and for each promise."""
    from engines.bundle import open_bundle

    bundle = open_bundle(path)
    valid, test = (recorded(bundle, features, split) for split in ("valid", "test"))
    rules: tuple[Literal["local-max", "greedy"], ...] = ("local-max", "greedy")
    for rule in rules:
        yield rule, curve(bundle.manifest, valid, test, rule, None)
    for deadline_s in PROMISES_S:
        for rule in rules:
            try:
                yield f"{rule} {deadline_s:g}", curve(bundle.manifest, valid, test, rule, deadline_s)
            except ValueError:
                continue  # no look-ahead is small enough


def recorded(bundle: "Bundle", features: Path, split: str) -> "list[Recorded]":
    from engines.frontend import embeddings_of
    from training.data.features import FeatureStream, find_halves
    from training.data.splits import read_split
    from training.measure import record

    manifest = bundle.manifest
    streams = [FeatureStream(s.name, manifest.features_of(s), s.columns) for s in manifest.streams]
    halves, _ = find_halves(features, read_split(features, split), streams, manifest.rate)
    return [record(bundle, embeddings_of(half.read(), manifest), half.actions) for half in halves]


def curve(
    manifest: "Manifest",
    valid: "Sequence[Recorded]",
    test: "Sequence[Recorded]",
    rule: Literal["local-max", "greedy"],
    deadline_s: float | None,
) -> Curve:
    """Return A(D) over the labels that occur in test, decided as is best on valid.

    Raises:
        ValueError: no look-ahead is small enough for the deadline.
    """
    from engines.errors import BundleError
    from training.choice import Wish, choose_settings
    from training.data.results import Truth
    from training.deadlines import deadline_curve
    from training.scoring import said_of, words_of

    try:
        decision = choose_settings(manifest, valid, Wish(rule=rule, deadline_s=deadline_s))
    except BundleError as error:
        raise ValueError from error
    chosen = manifest.model_copy(update={"decision": decision})
    truths = [Truth.of(half.actions, manifest.labels) for half in test]
    saids = [said_of(words_of(chosen, half), manifest.labels) for half in test]
    return list(deadline_curve(truths, saids, "tight", manifest.labels).occurring_means)


Found = Mapping[str, Sequence[Mapping[str, Curve]]]
"""Head → seed → way to decide → A(D)."""
BEGIN, END = "<!-- tables: written by `make latency` -->", "<!-- end of tables -->"


def results(work: Path) -> Found:
    records = {n: [record_of(work, n, s) for s in SEEDS if record_of(work, n, s).exists()] for n in HEADS}
    return {name: [json.loads(p.read_text())["curves"] for p in paths] for name, paths in records.items() if paths}


def tables(found: Found) -> str:
    """Return the table of what is said when the rule has settled it, and that of what is chosen for a promise."""
    columns = [f"{d:g}" for d in DEADLINES_S[:-1]] + ["∞"]
    lines = ["| head | rule | D = " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for name, seeds in found.items():
        for rule in ("local-max", "greedy"):
            means = [
                spread([ways[rule][i] for ways in seeds], short=i != len(columns) - 1) for i in range(len(columns))
            ]
            lines.append(f"| {HEADS[name].text} | {rule} | {' | '.join(means)} |")
    lines += ["", "| head | rule | promise " + " | ".join(f"{p:g} s" for p in PROMISES_S) + " | none |"]
    lines.append("|---|---|" + "---|" * (len(PROMISES_S) + 1))
    for name, seeds in found.items():
        for rule in ("local-max", "greedy"):
            cells = [kept(seeds, rule, promise_s) for promise_s in PROMISES_S]
            cells.append(spread([ways[rule][-1] for ways in seeds]))
            lines.append(f"| {HEADS[name].text} | {rule} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def kept(seeds: Sequence[Mapping[str, Curve]], rule: str, promise_s: float) -> str:
    """Return A(D) of what was chosen for that promise, and its share of A(∞) without one."""
    way = f"{rule} {promise_s:g}"
    if any(way not in ways for ways in seeds):
        return "–"
    at = DEADLINES_S.index(promise_s)
    values = [ways[way][at] for ways in seeds]
    shares = [value / max(ways[rule][-1], 1e-9) for value, ways in zip(values, seeds, strict=True)]
    return f"{spread(values)} ({statistics.mean(shares):.0%})"


def spread(values: Sequence[float], *, short: bool = False) -> str:
    """Return mean ± standard deviation, in percent."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if short or len(values) < 2 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def write_page(page: Path, found: Found) -> None:
    """Put the tables between the page's two marks."""
    text = page.read_text(encoding="utf-8") if page.exists() else f"# Latency\n\n{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables(found)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


COLOURS = ("#767676", "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7")


def draw(path: Path, found: Found) -> None:
    """Draw A(D) of every head by its rule, and, dotted, of what is chosen for each promise; bands are the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.6), layout="constrained", dpi=110)
    axes = figure.subplots()
    places = [*(math.log2(d) for d in DEADLINES_S[:-1]), math.log2(64) + 1]
    for (name, seeds), colour in zip(found.items(), COLOURS, strict=False):
        low, high, mean = (band([ways["local-max"] for ways in seeds], f) for f in (min, max, statistics.mean))
        axes.fill_between(places, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(places, mean, color=colour, marker="o", ms=4, lw=1.8, label=HEADS[name].text)
        if name == "hmtas-sampled":
            promised = [p for p in PROMISES_S if all(f"local-max {p:g}" in ways for ways in seeds)]
            at = [statistics.mean(w[f"local-max {p:g}"][DEADLINES_S.index(p)] for w in seeds) for p in promised]
            axes.plot(
                [math.log2(p) for p in promised],
                [100 * value for value in at],
                color=colour,
                marker="D",
                ms=7,
                ls=":",
                lw=1.8,
                label="the same, chosen for each deadline",
            )
    axes.set_xticks(places, [*(f"{d:g}" for d in DEADLINES_S[:-1]), "∞"])
    axes.set(ylim=(0, 100), xlabel="deadline D, seconds after the action", ylabel="A(D), tight Average-mAP, percent")
    axes.set_title("What had been said, and was final, D seconds after the action", loc="left")
    axes.grid(color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def band(curves: Sequence[Curve], of: Callable[[Sequence[float]], float]) -> list[float]:
    return [100 * of([curve[i] for curve in curves]) for i in range(len(DEADLINES_S))]


if __name__ == "__main__":
    main()
