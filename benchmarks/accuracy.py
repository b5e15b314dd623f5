"""Average-mAP of a bundle on a split of labelled matches, against the floor: the same model, embeddings shuffled.

    python benchmarks/accuracy.py DATA [--bundle bundles/demo] [--split test] [--csv FILE]

DATA is laid out as SoccerNet's (docs/training.md). The matches run through the live path's own source, sampler and
spotter. Every spot of at least 1 % counts in the ranking, as is usual with this metric; the last lines say what the
bundle's own thresholds give. SoccerNet's mean is over 17 labels, of which those that never occur count as 0; the second
mean is over the labels that occur.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.bundle import Bundle, open_bundle
from training.data.soccernet import read_split
from training.measure import truth_and_predictions
from training.metric import MapResult, Predictions, Truth, average_map
from training.scoring import FLOOR

SHUFFLE_SEED = 7


def scores(truths: Sequence[Truth], predictions: Sequence[Predictions], labels: Sequence[str]) -> list[MapResult]:
    """Return tight and loose."""
    return [average_map(truths, predictions, metric, labels) for metric in ("tight", "loose")]


def found(bundle: Bundle, root: Path, matches: Sequence[str]) -> str:
    """Say how many spots the bundle's own thresholds give, and how many of them are right within 2.5 s."""
    truths, predictions = truth_and_predictions(bundle, root, matches)
    right = said = actions = 0
    for truth, prediction in zip(truths, predictions, strict=True):
        free = list(zip(truth.labels_N.tolist(), truth.positions_ms_N.tolist(), strict=True))
        said, actions = said + len(prediction.labels_N), actions + len(free)
        for label, at in zip(prediction.labels_N.tolist(), prediction.positions_ms_N.tolist(), strict=True):
            near = min((f for f in free if f[0] == label), key=lambda f: abs(f[1] - at), default=None)
            if near is not None and abs(near[1] - at) <= 2500:
                free.remove(near)
                right += 1
    return (
        f"{said} spots for {actions} actions, {right} right within 2.5 s: "
        f"precision {right / max(said, 1):.2f}, recall {right / max(actions, 1):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    labels, matches = bundle.manifest.labels, read_split(args.data, args.split)
    ranking = replace(bundle, manifest=bundle.manifest.with_decision(threshold=FLOOR))
    tight, loose = scores(*truth_and_predictions(ranking, args.data, matches), labels)
    floor_tight, floor_loose = scores(*truth_and_predictions(ranking, args.data, matches, SHUFFLE_SEED), labels)
    print(f"{args.split}: {len(matches)} matches, Average-mAP of {bundle.manifest.name} ({bundle.digest[:12]})")
    print(f"{'label':20}{'actions':>8}{'tight':>8}{'loose':>8}{'floor tight':>13}{'floor loose':>13}")
    columns = [r.overall.per_label for r in (tight, loose, floor_tight, floor_loose)]
    for label, actions, a, b, c, d in zip(labels, tight.actions, *columns, strict=True):
        if actions:
            print(f"{label:20}{actions:8}{a:8.3f}{b:8.3f}{c:13.3f}{d:13.3f}")
    means = [r.overall.mean for r in (tight, loose, floor_tight, floor_loose)]
    occurring = [r.occurring_mean for r in (tight, loose, floor_tight, floor_loose)]
    print("{:28}{:8.3f}{:8.3f}{:13.3f}{:13.3f}".format("mean of 17 (SoccerNet's)", *means))
    print(
        "{:28}{:8.3f}{:8.3f}{:13.3f}{:13.3f}".format(
            f"mean of the {sum(n > 0 for n in tight.actions)} occurring", *occurring
        )
    )
    print(f"tight over floor: {means[0] / max(means[2], 1e-9):.1f} times; at the bundle's own thresholds:")
    print(found(bundle, args.data, matches))


if __name__ == "__main__":
    main()
