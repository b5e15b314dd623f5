"""A bundle's scores on labelled matches, measured through the live path's own stages: source, sampler, spotter."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from engines.actions import Action, read_actions
from engines.bundle import Bundle
from engines.decider import Spot
from engines.frontend import Embeddings, FrontEnds, embeddings_of
from engines.head import AT_ONCE, Scores
from engines.spotter import Spotter
from streamer.sampler import PictureSpec, Sampler, seconds_of
from streamer.sources.libav import LibavSource
from training.data.features import FeatureHalf
from training.data.soccernet import find_video, halves_of
from training.metric import MapResult, Predictions, Truth, average_map
from training.scoring import Scored


def with_threshold(bundle: Bundle, threshold: float) -> Bundle:
    """Return the bundle with one threshold for every label."""
    decision = {k: d.model_copy(update={"threshold": threshold}) for k, d in bundle.manifest.decision.items()}
    manifest = bundle.manifest.model_copy(update={"decision": decision})
    return Bundle(bundle.path, manifest, bundle.digest, bundle.front_ends, bundle.head)


def embed(bundle: Bundle, video: Path) -> list[Embeddings]:
    """Return the embeddings of every second of a file, in order."""
    p = bundle.manifest.pictures
    front_ends = FrontEnds(bundle)
    source = LibavSource(str(video), threads=2)
    try:
        sampler = Sampler(PictureSpec(p.rate, p.width, p.height, p.resize_filter))
        return [e for second in seconds_of(source.frames(), sampler) for e in front_ends.push(second)]
    finally:
        source.close()


def spot(bundle: Bundle, embeddings: Iterable[Embeddings]) -> list[Spot]:
    """Return the spots of one half, from its embeddings."""
    spotter = Spotter(bundle, "measure")
    return spotter.decide(_scores(spotter, embeddings)) + spotter.flush()


def scored(bundle: Bundle, embeddings: Iterable[Embeddings], actions: Sequence[Action]) -> Scored:
    """Return what the bundle's head says of every row of one half, before anything is decided."""
    spotter, manifest = Spotter(bundle, "measure"), bundle.manifest
    rows = _scores(spotter, embeddings)
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
        said = [(s.label, s.media_time, s.confidence) for s in spot(bundle, embeddings)]
        actions = [a for a in read_actions(root / match / "Labels-v2.json") if a.half == half]
        truths.append(Truth.of(actions, labels))
        predictions.append(Predictions.of(said, labels))
    return truths, predictions


def on_features(bundle: Bundle, halves: Iterable[FeatureHalf]) -> tuple[list[Truth], list[Predictions]]:
    """Return what happened and what the bundle says of feature files, a half each."""
    labels = bundle.manifest.labels
    truths, predictions = [], []
    for half in halves:
        spots = spot(bundle, embeddings_of(half.read(), bundle.manifest))
        truths.append(Truth.of(half.actions, labels))
        predictions.append(Predictions.of([(s.label, s.media_time, s.confidence) for s in spots], labels))
    return truths, predictions


def report(truths: Sequence[Truth], predictions: Sequence[Predictions], labels: Sequence[str]) -> dict[str, object]:
    """Return tight and loose Average-mAP as a manifest keeps them; over all labels, and over those that occur."""
    tight, loose = (average_map(truths, predictions, metric, labels) for metric in ("tight", "loose"))
    return {"tight": _averages(tight), "loose": _averages(loose), "tight_per_label": _per_label(tight)}


def _averages(result: MapResult) -> dict[str, float]:
    return {"a_mAP": round(result.overall.mean, 4), "a_mAP_occurring": round(result.occurring_mean, 4)}


def _per_label(result: MapResult) -> dict[str, float]:
    rows = zip(result.labels, result.overall.per_label, result.actions, strict=True)
    return {label: round(value, 4) for label, value, count in rows if count}
