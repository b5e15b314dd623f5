"""Recordings to feature files, and spots from feature files, as a user runs them."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from command import Touchline

from engines.bundle import open_bundle
from engines.frontend import FrontEnds
from streamer.config import IngestConfig
from streamer.ingest.messages import Arrived
from streamer.ingest.supervisor import Ingest
from streamer.sources.base import PictureSpec


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, short_sample: Path) -> Path:
    from streamer.cli import main

    folder = tmp_path_factory.mktemp("features")
    assert main(["embed", str(short_sample), "--out", str(folder), "--bundle", "bundles/demo"]) == 0
    return folder


def test_embedded_features_are_the_bytes_that_the_live_path_computes(
    features: Path, short_sample: Path, demo_bundle: Path
) -> None:
    bundle = open_bundle(demo_bundle)
    p = bundle.manifest.pictures
    front_ends = FrontEnds(bundle)
    with Ingest(
        IngestConfig((str(short_sample),), live=False), PictureSpec(p.rate, p.width, p.height, "area")
    ) as ingest:
        seconds = [m.second for m in ingest.messages() if isinstance(m, Arrived)]
    rows = [e.rows for second in seconds for e in front_ends.push(second)]
    for stream in ("visual", "audio"):
        written = np.load(features / f"1_demo_{stream}.npy")
        assert written.tobytes() == np.concatenate([r[stream] for r in rows]).tobytes()


@pytest.mark.parametrize("options", [(), ("--deadline", "6", "--threshold", "0.1")])
def test_spotting_on_features_says_what_replay_says(
    touchline: Touchline, features: Path, short_sample: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    files = sorted(features.glob("1_*.npy"))
    spotted, replayed = tmp_path / "spotted.json", tmp_path / "replayed.json"
    assert touchline("spot", *files, "--bundle", "bundles/demo", "--out", spotted, *options).code == 0
    assert touchline("replay", short_sample, "--out", replayed, "--quiet", *options).code == 0
    predictions = [json.loads(path.read_text())["predictions"] for path in (spotted, replayed)]
    assert predictions[0] == predictions[1] != []


def test_a_folder_of_matches_gives_a_folder_of_results(touchline: Touchline, features: Path, tmp_path: Path) -> None:
    match = tmp_path / "features" / "league" / "season" / "match"
    match.mkdir(parents=True)
    for half in (1, 2):
        for stream in ("visual", "audio"):
            (match / f"{half}_demo_{stream}.npy").write_bytes((features / f"1_demo_{stream}.npy").read_bytes())
    out = tmp_path / "results"
    assert touchline("spot", tmp_path / "features", "--bundle", "bundles/demo", "--out", out).code == 0
    found = json.loads((out / "league" / "season" / "match" / "results_spotting.json").read_text())["predictions"]
    assert {p["half"] for p in found} == {"1", "2"}
    packed = tmp_path / "results.zip"
    assert touchline("spot", tmp_path / "features", "--bundle", "bundles/demo", "--out", packed).code == 0
    with zipfile.ZipFile(packed) as file:
        assert file.namelist() == ["league/season/match/results_spotting.json"]


def test_scores_of_every_row_can_be_kept(touchline: Touchline, features: Path, tmp_path: Path) -> None:
    files, scores = sorted(features.glob("1_*.npy")), tmp_path / "scores.npz"
    out = tmp_path / "out.json"
    assert touchline("spot", *files, "--bundle", "bundles/demo", "--out", out, "--scores", scores).code == 0
    with np.load(scores) as kept:
        assert kept["1"].shape == (len(np.load(files[0])), 17)


def test_recordings_that_fail_are_named_and_the_others_are_embedded(
    touchline: Touchline, short_sample: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for name, content in (("good", short_sample.read_bytes()[:400_000]), ("bad", b"no video")):
        (data / name).mkdir(parents=True)
        (data / name / "1.ts").write_bytes(content)
    ended = touchline("embed", data, "--out", tmp_path / "out")
    assert ended.code == 1
    assert "1 of 2 recordings could not be embedded" in ended.complaint
    assert "bad" in ended.err
    assert (tmp_path / "out" / "good" / "1_demo_visual.npy").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a .npy file"),
        (b"\x93NUMPY rubbish", "is not a .npy file"),
        (None, "cannot be read"),
        (np.zeros((5, 3), np.float32), "rows are 3 wide"),
        (np.zeros(5, np.float32), "(rows, width)"),
        (np.array(["a", "b"], object), "pickled objects"),
        (b"PK\x03\x04", "is not a .npy file"),
        (np.full((5, 256), np.nan, np.float32), "row 0 holds values that are no numbers"),
    ],
)
def test_features_that_cannot_be_used_are_one_sentence(
    touchline: Touchline, features: Path, tmp_path: Path, content: bytes | np.ndarray | None, said: str
) -> None:
    file = tmp_path / "1_demo_visual.npy"
    if isinstance(content, np.ndarray):
        np.save(file, content, allow_pickle=True)
    elif content is not None:
        file.write_bytes(content)
    ended = touchline("spot", file, features / "1_demo_audio.npy", "--bundle", "bundles/demo", "--out", tmp_path / "o")
    assert ended.code == 1
    assert said in ended.complaint
    assert not (tmp_path / "o").exists()


def test_a_match_of_a_folder_that_fails_is_named_and_the_others_are_spotted_on(
    touchline: Touchline, features: Path, tmp_path: Path
) -> None:
    for name, size in (("good", None), ("bad", 1000)):
        match = tmp_path / "features" / "league" / "season" / name
        match.mkdir(parents=True)
        for stream in ("visual", "audio"):
            (match / f"1_demo_{stream}.npy").write_bytes((features / f"1_demo_{stream}.npy").read_bytes()[:size])
    ended = touchline("spot", tmp_path / "features", "--bundle", "bundles/demo", "--out", tmp_path / "out.zip")
    assert ended.code == 1
    assert "1 of 2 matches could not be spotted on" in ended.complaint
    assert "season/bad/1_demo" in ended.err
    assert "half 2 is left out" in ended.err
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        assert file.namelist() == ["league/season/good/results_spotting.json"]


def test_features_of_another_kind_or_a_missing_half_are_named(
    touchline: Touchline, features: Path, tmp_path: Path
) -> None:
    strange = touchline("spot", features / "1_what.npy", "--bundle", "bundles/demo", "--out", tmp_path / "o")
    assert (strange.code, "{1,2}_demo_audio.npy" in strange.complaint) == (2, True)
    alone = touchline("spot", features / "1_demo_audio.npy", "--bundle", "bundles/demo", "--out", tmp_path / "o")
    assert (alone.code, "half 1 lacks 1_demo_visual.npy" in alone.complaint) == (2, True)
