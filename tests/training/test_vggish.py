import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from originals import Originals, weight
from torch import Tensor

from engines.errors import DataError
from training.importers.vggish import convert, convert_pca, convert_tagger
from training.models.vggish import (
    Vggish,
    VggishTagger,
    frame_count,
    log_mel,
    mel_matrix,
    one_row_a_second,
    patches,
    postprocess,
)


def wave(stored: np.ndarray) -> np.ndarray:
    return stored.astype(float) / 32768


def test_log_mel_and_patches_equal_the_originals(originals: Originals) -> None:
    stored = originals.arrays("vggish")
    spectrogram = log_mel(wave(stored["wave_i16"]))
    np.testing.assert_allclose(spectrogram[:8], stored["log_mel_first8"], atol=1e-6)
    found, wanted = patches(spectrogram), stored["examples"]
    assert found.shape == (len(wanted), 96, 64)
    np.testing.assert_allclose(found[:, : wanted.shape[1]], wanted, atol=1e-6)


def test_the_constants_equal_the_originals(originals: Originals) -> None:
    stored = originals.arrays("vggish")
    np.testing.assert_allclose(mel_matrix(), stored["mel_matrix"], atol=1e-6)
    np.testing.assert_allclose(mel_matrix().sum(0), stored["mel_matrix_colsum"], rtol=1e-9)
    hann = stored["hann_periodic_400"]
    click = np.zeros(400)
    click[100] = 1.0  # a click's spectrum is flat and as high as the window is there
    np.testing.assert_allclose(np.exp(log_mel(click)[0]) - 0.01, hann[100] * mel_matrix().sum(0), rtol=1e-9)
    np.testing.assert_allclose(log_mel(np.zeros(400)), stored["log_mel_silence_value"], rtol=1e-12)


def test_counts_of_frames_and_patches_equal_the_originals(originals: Originals) -> None:
    counts = json.loads(str(originals.arrays("vggish")["frame_counts"]))
    for samples, frames, wanted in counts.values():
        assert (frame_count(samples), frame_count(samples) // 96) == (frames, wanted)


def test_sound_mixed_down_and_resampled_by_the_original_gives_its_patches(shared: Path) -> None:
    with np.load(shared / "fixtures" / "vggish.npz") as stored:
        found = patches(log_mel(stored["resampy_16k"]))
        # the resampled sound is stored in float32, which quiet bands feel
        np.testing.assert_allclose(found, stored["stereo_examples"], atol=5e-5)


@given(samples=st.integers(0, 20_000))
def test_a_spectrogram_has_as_many_frames_as_promised(samples: int) -> None:
    spectrogram = log_mel(np.zeros(samples, np.float32))
    assert spectrogram.shape == (frame_count(samples), 64)
    assert patches(spectrogram).shape == (frame_count(samples) // 96, 96, 64)


def test_a_long_sound_equals_its_pieces() -> None:
    sound = np.random.default_rng(0).uniform(-1, 1, 160 * 5000)
    whole = log_mel(sound)
    np.testing.assert_allclose(whole[4090:4100], log_mel(sound[4090 * 160 :])[:10], atol=1e-12)


def drawn_state() -> dict[str, Tensor]:
    with torch.device("meta"):
        network = VggishTagger(17)
    names = {name.removeprefix("vggish."): x.shape for name, x in network.state_dict().items()}
    return {name: torch.from_numpy(weight(2026, name, shape)) for name, shape in names.items()}


def test_the_whole_network_and_its_tagger_equal_the_originals(shared: Path) -> None:
    stored = np.load(shared / "fixtures" / "vggish.npz")
    recipe = json.loads((shared / "fixtures" / "weight_recipes.json").read_text())["vggish"]["tensors"]
    state = drawn_state()
    assert {t["name"]: t["shape"] for t in recipe} == {name: list(x.shape) for name, x in state.items()}
    for tensor in recipe:
        np.testing.assert_array_equal(state[tensor["name"]].flatten()[:2], np.float32(tensor["head"]))
    with torch.device("meta"):
        network = VggishTagger(17)
    network.load_state_dict(convert_tagger(state), assign=True)
    assert sum(p.numel() for p in network.vggish.parameters()) == 72_141_184
    examples = torch.from_numpy(stored["examples"])
    with torch.inference_mode():
        maps = network.vggish.features(examples[:, None])
        embeddings = network.vggish(examples)
        scores = network(examples)
    assert list(maps.shape) == stored["features_shape"].tolist()
    np.testing.assert_allclose(maps.mean((2, 3)), stored["features_mean"], atol=1e-5)
    np.testing.assert_allclose(embeddings, stored["embedding128"], atol=1e-5)
    np.testing.assert_allclose(scores, stored["classifier18"], atol=1e-5)


def test_post_processing_equals_the_originals(shared: Path) -> None:
    with np.load(shared / "fixtures" / "vggish.npz") as stored:
        pca = {
            "pca_eigen_vectors": torch.from_numpy(stored["postproc_pca_vectors"]),
            "pca_means": torch.from_numpy(stored["postproc_pca_means"]),
        }
        vectors, means = convert_pca(pca)
        found = postprocess(stored["embedding128"], vectors.numpy(), means.numpy())
        np.testing.assert_array_equal(found, stored["postproc_uint"])


def test_one_row_in_25_is_left_out_and_row_k_stays_near_second_k() -> None:
    starts_s = np.arange(frame_count(2700 * 16_000) // 96)[:, None] * 0.96
    rows = one_row_a_second(starts_s.astype(np.float32))
    assert len(starts_s) == 2812
    assert len(rows) == 2700
    assert (abs(rows[:, 0] - np.arange(2700)) <= 0.5).all()


def meta_state() -> dict[str, Tensor]:
    with torch.device("meta"):
        return Vggish().state_dict()


def test_the_post_processors_tensors_are_left_out_of_the_network() -> None:
    extra = {"pproc.pca_matrix": torch.zeros(128, 128), "pproc.pca_means": torch.zeros(128, 1)}
    assert convert({**meta_state(), **extra}).keys() == meta_state().keys()
    assert [x.shape for x in convert_pca(extra)] == [(128, 128), (128,)]


def test_weights_of_another_network_are_refused_by_name() -> None:
    state = meta_state()
    with pytest.raises(DataError, match=r"features\.0\.weight"):
        convert({**state, "features.0.weight": torch.zeros(64, 3, 3, 3)})
    with pytest.raises(DataError, match=r"classifier\.0\.weight"):
        convert_tagger(state)
    with pytest.raises(DataError, match="pca_means"):
        convert_pca({"pca_eigen_vectors": torch.zeros(128, 128)})
    with pytest.raises(DataError, match=r"\(3, 128\)"):
        convert_pca({"pca_eigen_vectors": torch.zeros(3, 128), "pca_means": torch.zeros(128)})
