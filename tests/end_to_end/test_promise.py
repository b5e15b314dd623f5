"""The promise: whatever the configuration, no final word comes later than the bundle says it will."""

from pathlib import Path

import numpy as np
import pytest

from engines.bundle import Bundle, Manifest, check_deadlines, open_bundle
from engines.decider import Decider, Spot
from engines.frontend import Embeddings
from engines.head import Scores
from engines.spotter import Spotter
from training.measure import embed

CONFIGURATIONS = 100


@pytest.fixture(scope="module")
def seen() -> tuple[Bundle, list[Embeddings]]:
    """The shipped bundle, and what its front ends say of the sample."""
    root = Path(__file__).parents[2]
    bundle = open_bundle(root / "bundles" / "demo")
    return bundle, embed(bundle, root / "samples" / "broadcast.ts")


@pytest.fixture(scope="module")
def scores(seen: tuple[Bundle, list[Embeddings]]) -> list[Scores]:
    bundle, embeddings = seen
    spotter = Spotter(bundle, "sample")
    return spotter.score_rows(embeddings) + spotter.flush_scores()


def some_configuration(manifest: Manifest, rng: np.random.Generator) -> Manifest:
    """Return the manifest with a rule for all labels, and everything else drawn for each label."""
    rule = str(rng.choice(["local-max", "greedy"]))
    decision = {}
    for label in manifest.labels:
        change = {
            "rule": rule,
            "threshold": float(rng.choice([0.005, 0.1, 0.3, 0.5, 0.8])),
            "radius_s": float(rng.uniform(0, 6)),
            "window_s": float(rng.uniform(0, 20)),
            "look_ahead_s": float(rng.choice(manifest.look_aheads_s)),
            "provisional_threshold": None if rng.random() < 0.3 else float(rng.uniform(0, 1)),
            "deadline_s": None,
        }
        one = manifest.model_copy(update={"decision": {label: manifest.decision[label].model_copy(update=change)}})
        if rule == "greedy" or rng.random() < 0.7:
            change["deadline_s"] = one.smallest_deadline_s(label) + float(rng.choice([0, rng.uniform(0, 8)]))
        decision[label] = manifest.decision[label].model_copy(update=change)
    return manifest.model_copy(update={"decision": decision})


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_every_final_word_on_the_sample_comes_within_its_promised_delay(
    seed: int, seen: tuple[Bundle, list[Embeddings]], scores: list[Scores]
) -> None:
    manifest = some_configuration(seen[0].manifest, np.random.default_rng(seed))
    check_deadlines(manifest)
    decider = Decider(manifest, "sample")
    words: list[Spot] = [word for one in scores for word in decider.push(one)] + decider.flush()
    final = [word for word in words if word.state != "provisional"]
    assert final
    assert all(0 <= word.delay_s <= manifest.promised_delay_s(word.label) + 1e-9 for word in final)
    assert len({word.id for word in final}) == len(final) == len({word.id for word in words})
