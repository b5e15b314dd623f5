"""A bundle's scores on labelled matches, measured through the live path's own stages: source, sampler, spotter."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from engines.actions import Action, read_actions
from engines.bundle import Bundle, Manifest
from engines.decider import Spot
from engines.frontend import Embeddings, FrontEnds
from engines.head import AT_ONCE, Scores
from engines.spotter import Spotter
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import PictureSpec
from streamer.sources.libav import LibavSource
from training.data.soccernet import find_video, halves_of
from training.deadlines import DeadlineCurve, deadline_curve
from training.metric import Predictions, Truth
from training.scoring import FLOOR, Recorded, Scored, said_of, words_of
from training.tune import calibration_errors


def embed(bundle: Bundle, video: Path) -> list[Embeddings]:
    """Return the embeddings of every second of a file, in order."""
    front_ends = FrontEnds(bundle)
    source = LibavSource(str(video), threads=2)
    try:
        sampler = Sampler(PictureSpec.of(bundle.manifest.pictures))
        return [e for second in seconds_of(source.frames(), sampler) for e in front_ends.push(second)]
    finally:
        source.close()


def record(bundle: Bundle, embeddings: Iterable[Embeddings], actions: Sequence[Action]) -> Recorded:
    """Return what the bundle's head says of one half, for the decider to run over as often as one likes.

    Args:
        bundle: what to score with.
        embeddings: of the half's seconds, in order.
        actions: what happened in it.
    """
    return Recorded(actions, _scores(Spotter(bundle, "recorded"), embeddings))


def spot(bundle: Bundle, embeddings: Iterable[Embeddings]) -> list[Spot]:
    """Return the words on one half, from its embeddings."""
    return words_of(bundle.manifest, record(bundle, embeddings, ()))


def scored(
    bundle: Bundle, embeddings: Iterable[Embeddings], actions: Sequence[Action], look_ahead: int | None = None
) -> Scored:
    """Return what the bundle's head says of every row of one half, before anything is decided.

    Args:
        bundle: what to score with.
        embeddings: of the half's seconds, in order.
        actions: what happened in it.
        look_ahead: rows; which of the head's look-aheads, the largest unless given.
    """
    spotter, manifest = Spotter(bundle, "measure"), bundle.manifest
    wanted = round(manifest.head.look_ahead_s * manifest.rate) if look_ahead is None else look_ahead
    rows = [s for s in _scores(spotter, embeddings) if s.look_ahead == wanted]
    at_us = np.array([round((s.index / manifest.rate + manifest.head.row_time_s) * 1e6) for s in rows], np.int64)
    shift_us = np.round(np.stack([s.displacement_C for s in rows]).astype(np.float64) * 1000).astype(np.int64) * 1000
    return Scored(actions, np.stack([s.scores_C for s in rows]), np.maximum(at_us[:, None] + shift_us, 0))


def _scores(spotter: Spotter, embeddings: Iterable[Embeddings]) -> list[Scores]:
    """Return the scores of all rows of a half."""
    scores, seconds = [], iter(embeddings)
    while block := list(islice(seconds, AT_ONCE)):
        scores += spotter.score_rows(block)
    return scores + spotter.flush_scores()


def shuffled(embeddings: Sequence[Embeddings], seed: int) -> list[Embeddings]:
    """Return the same rows in a random order of time: what a model says that sees the match but not when."""
    order = np.random.default_rng(seed).permutation(len(embeddings))
    return [
        Embeddings(e.epoch, e.index, embeddings[i].rows, embeddings[i].has_picture, embeddings[i].flags)
        for e, i in zip(embeddings, order, strict=True)
    ]


def truth_and_predictions(
    bundle: Bundle, root: Path, matches: Sequence[str], shuffle_seed: int | None = None
) -> tuple[list[Truth], list[Predictions]]:
    """Return what happened and what the bundle says, a half each.

    Args:
        bundle: its thresholds decide what is said.
        root: the data's root.
        matches: folders relative to `root`.
        shuffle_seed: shuffle each half's embeddings in time first.
    """
    labels = bundle.manifest.labels
    truths, predictions = [], []
    for match, half in halves_of(root, matches):
        embeddings = embed(bundle, find_video(root / match, half))
        if shuffle_seed is not None:
            embeddings = shuffled(embeddings, shuffle_seed)
        actions = [a for a in read_actions(root / match / "Labels-v2.json") if a.half == half]
        truths.append(Truth.of(actions, labels))
        predictions.append(said_of(spot(bundle, embeddings), labels).final)
    return truths, predictions


def measured(manifest: Manifest, halves: Sequence[Recorded]) -> dict[str, object]:
    """Return what a manifest keeps of a split: Average-mAP, by label, by deadline; and the calibration errors.

    The bundle decides as it will run, with its rule, look-aheads and deadlines; but every spot counts in the ranking,
    however low. Where a deadline forces what the rule has not settled, thresholds decide what is forced: they stay.

    Args:
        manifest: of the bundle as it is.
        halves: as it scores them.
    """
    labels, truths = manifest.labels, [Truth.of(half.actions, manifest.labels) for half in halves]
    saids = [said_of(words_of(_ranking(manifest), half), labels) for half in halves]
    curves = {metric: deadline_curve(truths, saids, metric, labels) for metric in ("tight", "loose")}
    tight = curves["tight"]
    rows = zip(labels, tight.averages[-1].per_label, tight.actions, strict=True)
    return {
        **{metric: _averages(curve) for metric, curve in curves.items()},
        "tight_per_label": {label: round(value, 4) for label, value, count in rows if count},
        "deadlines": {metric: _by_deadline(curve) for metric, curve in curves.items()},
        "calibration_error": calibration_errors(manifest, halves),
    }


def _ranking(manifest: Manifest) -> Manifest:
    """Return the manifest with thresholds that let every spot count, but where a deadline cuts the rule short."""
    free = manifest.with_decision(deadline_s=None)
    decision = {
        label: d if manifest.hold_s(label) < free.hold_s(label) else d.model_copy(update={"threshold": FLOOR / 100})
        for label, d in manifest.decision.items()
    }
    return manifest.model_copy(update={"decision": decision})


def _averages(curve: DeadlineCurve) -> dict[str, float]:
    return {"a_mAP": round(curve.means[-1], 4), "a_mAP_occurring": round(curve.occurring_means[-1], 4)}


def _by_deadline(curve: DeadlineCurve) -> dict[str, float]:
    return {f"{d:g}": round(m, 4) for d, m in zip(curve.deadlines_s, curve.occurring_means, strict=True)}
