"""Ten thousand damaged inputs of every kind that a user can feed, and what becomes of them.

    python benchmarks/fuzz.py [--count 10000] [--only bundles configs streams payloads] [--seed 1] [--keep FOLDER]

Bundles, command lines with environments and the files they read, recordings and playlists, and a broker's messages are
mutated and fed in a few processes. Each input must be accepted, or refused in one sentence, within 10 s of a machine
that has nothing else to do, and within 2 GB: FFmpeg, by its own limit, may ask for so much at once. A traceback, a
sentence that is none or shows a password, a hang, a crash, more memory: each is a finding, and the exit code is 1.
Nothing reaches the network; configs.py, payloads.py and urls.py in benchmarks/fuzzing say what is stood in for. The
same seed gives the same inputs, as long as the small files of ../shared, which are taken where they are, stay the same;
--one feeds one again.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from fuzzing.kinds import Item, Kind, Verdict
from fuzzing.media import make_seeds
from fuzzing.planted import Planted
from fuzzing.pool import Pool, case_of
from fuzzing.worker import write_files
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

SHARES = {"bundles": 0.25, "configs": 0.35, "streams": 0.25, "payloads": 0.15}
_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "streams"
_SHOWN = 1500


def make_kinds(seeds: Path, names: Sequence[str], torch: bool) -> dict[str, Kind]:
    """Return the kinds of inputs by name."""
    made: dict[str, Kind] = {}
    for name in names:  # each imports what it feeds
        if name == "bundles":
            from fuzzing.bundles import Bundles

            made[name] = Bundles()
        elif name == "configs":
            from fuzzing.configs import Configs

            made[name] = Configs(seeds, torch=torch)
        elif name == "streams":
            from fuzzing.streams import Streams

            made[name] = Streams(seeds, _SHARED)
        elif name == "payloads":
            from fuzzing.payloads import Payloads

            made[name] = Payloads()
        else:
            made[name] = Planted()
    return made


def items(count: int, names: Sequence[str]) -> Iterator[Item]:
    """Yield so many inputs in all, each kind's share of them."""
    whole = sum(SHARES.get(name, 1.0) for name in names)
    left = count
    for place, name in enumerate(names):
        own = left if place == len(names) - 1 else round(count * SHARES.get(name, 1.0) / whole)
        yield from (Item(name, index) for index in range(own))
        left -= own


def keep(folder: Path, kind: Kind, seed: int, verdict: Verdict) -> None:
    """Save a finding: its files, and what is known of it."""
    place = folder / f"{verdict.item.kind}-{seed}-{verdict.item.index}"
    place.mkdir(parents=True, exist_ok=True)
    case = case_of(kind, seed, verdict.item)
    write_files(case, place)
    text = f"{verdict.end}\n{case.title}\n{case.feed!r}\n\n{verdict.said}\n"
    (place / "finding.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def table(verdicts: Sequence[Verdict], names: Sequence[str]) -> Table:
    """Return the counts by kind."""
    found = Table()
    for column in ("kind", "inputs", "refused in one sentence", "accepted", "findings", "slowest", "peak memory"):
        found.add_column(column, justify="left" if column == "kind" else "right")
    for name in (*names, "all"):
        own = [v for v in verdicts if name in ("all", v.item.kind)]
        if not own:
            continue
        ends = Counter("finding" if v.is_finding else v.end for v in own)
        slowest = max(own, key=lambda v: v.wall_s)
        cells = (str(len(own)), *(str(ends[end]) for end in ("refused", "accepted", "finding")))
        last = (f"{slowest.wall_s:.1f} s (#{slowest.item.index})", f"{max(v.peak_mb for v in own):.0f} MB")
        found.add_row(name, *cells, *last, style="bold" if name == "all" else "")
    return found


def fuzz(args: argparse.Namespace, console: Console) -> list[Verdict]:
    """Feed everything; return what became of it."""
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="touchline-fuzz-") as scratch:
        seeds = Path(scratch) / "seeds"
        make_seeds(seeds)
        make = partial(make_kinds, seeds, args.only, not args.no_torch)
        kinds: Mapping[str, Kind] = make() if args.keep is not None else {}
        wanted = iter([Item(args.only[0], args.one)]) if args.one is not None else items(args.count, args.only)
        limits = {"workers": args.workers, "patience_s": args.patience, "most_mb": args.memory}
        pool = Pool(make, args.seed, Path(scratch), **limits)
        with pool, Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("fuzzing", total=args.count if args.one is None else 1)
            for verdict in pool.verdicts(wanted):
                verdicts.append(verdict)
                progress.update(task, advance=1)
                if verdict.is_finding:
                    name = f"{verdict.item.kind} {verdict.item.index} (seed {args.seed})"
                    console.print(f"{verdict.end}: {name}\n{verdict.said[-_SHOWN:]}", markup=False, highlight=False)
                    if args.keep is not None:
                        keep(args.keep, kinds[verdict.item.kind], args.seed, verdict)
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="inputs in all (default 10000)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=[*SHARES, "planted"],
        default=list(SHARES),
        help="these kinds; what is planted must be found",
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--one", type=int, metavar="INDEX", help="this input of the kind of --only, alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="save the inputs that are findings here")
    parser.add_argument(
        "--patience", type=float, default=10.0, metavar="S", help="how long an input may take (default 10)"
    )
    parser.add_argument("--memory", type=int, default=2048, metavar="MB", help="how much memory (default 2048)")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    parser.add_argument("--no-torch", action="store_true", help="leave out the commands that need torch")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console = Console()
    since_s = time.monotonic()
    verdicts = fuzz(args, console)
    console.print(table(verdicts, args.only))
    findings = sum(verdict.is_finding for verdict in verdicts)
    console.print(f"{len(verdicts)} inputs in {time.monotonic() - since_s:.0f} s, {findings} findings.")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
