from dataclasses import replace

import numpy as np
from fakes import FunctionEngine, fake_bundle, fake_manifest, second

from engines.bundle import Bundle, State
from engines.frontend import FrontEnds


def counting_bundle() -> Bundle:
    """A visual front end that counts the seconds it has seen, in a state tensor."""
    manifest = fake_manifest()
    visual = manifest.streams[0].model_copy(update={"states": (State(name="state_n", shape=(1, 1)),)})
    bundle = fake_bundle(manifest.model_copy(update={"streams": (visual, manifest.streams[1])}))

    def count(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        n = feeds["state_n"] + 1
        return {"row": n, "next_state_n": n}

    engine = FunctionEngine({}, {}, count)
    return replace(bundle, front_ends={**bundle.front_ends, "visual": engine})


def test_state_goes_on_from_second_to_second_and_starts_anew_in_an_epoch() -> None:
    front_ends = FrontEnds(counting_bundle())
    seconds = [second(0), second(1), second(2), second(2, epoch=1), second(3, epoch=1)]
    rows = [e.rows["visual"][0, 0] for s in seconds for e in front_ends.push(s)]
    assert rows == [1, 2, 3, 1, 2]


def test_a_second_without_sound_has_a_row_of_zeros() -> None:
    front_ends = FrontEnds(fake_bundle())
    loud = np.ones(16_000, np.float32)
    rows = [
        e.rows["audio"][0, 0]
        for filled in (1.0, 0.6, 0.4, 0.0)
        for e in front_ends.push(second(0, samples_S=loud, audio_filled=filled))
    ]
    assert rows == [1, 1, 0, 0]
