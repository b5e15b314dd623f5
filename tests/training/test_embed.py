"""`touchline embed`: which recordings, and what else, end up beside the features; the front ends are not run here."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from engines.bundle import Bundle
from engines.errors import DataError, UsageError
from engines.frontend import Embeddings
from training import embed
from training.data.results import LABELS_NAME

MATCHES = ("league/season/A", "league/season/B")
LIST = {"league": {"season": ["A"]}}


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Take the place of the front ends: a recording that begins with "bad" fails. Return what was embedded."""
    done: list[Path] = []

    def pretended(bundle: Bundle, video: Path) -> list[Embeddings]:
        if video.read_text().startswith("bad"):
            raise DataError(f"{video}: is bad.")
        done.append(video)
        rows = {s.name: np.ones((1, s.width), np.float32) for s in bundle.manifest.streams}
        return [Embeddings(0, 0, rows, True, frozenset())]

    monkeypatch.setattr(embed, "embed", pretended)
    return done


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two matches of two halves, A labelled."""
    for match in MATCHES:
        folder = tmp_path / "data" / match
        folder.mkdir(parents=True)
        for half in (1, 2):
            (folder / f"{half}.mp4").write_text("good")
    (tmp_path / "data" / MATCHES[0] / LABELS_NAME).write_text("{}")
    return tmp_path / "data"


def run(bundle: Path, out: Path, *data: Path) -> int:
    parser = argparse.ArgumentParser()
    embed.add_arguments(parser)
    return embed.run(parser.parse_args([*map(str, data), "--bundle", str(bundle), "--out", str(out)]))


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def files_of(half: int) -> set[str]:
    return {f"{half}_small-hmtas-live.json", f"{half}_demo_visual.npy", f"{half}_demo_audio.npy"}


def test_a_folder_of_matches_gives_features_labels_and_lists(demo_bundle: Path, data: Path, tmp_path: Path) -> None:
    (data / "train.txt").write_text(f"{MATCHES[0]}\n{MATCHES[1]}\n")
    (data / "SoccerNetGamesTest.json").write_text(json.dumps(LIST))
    assert run(demo_bundle, tmp_path / "out", data) == 0
    wanted = {f"{match}/{name}" for match in MATCHES for half in (1, 2) for name in files_of(half)}
    lists = {"train.txt", "SoccerNetGamesTest.json"}
    assert written(tmp_path / "out") == wanted | {f"{MATCHES[0]}/{LABELS_NAME}"} | lists


def test_a_match_folder_is_a_match(demo_bundle: Path, data: Path, tmp_path: Path) -> None:
    assert run(demo_bundle, tmp_path / "out", data / MATCHES[0]) == 0
    assert written(tmp_path / "out") == files_of(1) | files_of(2) | {LABELS_NAME}


def test_the_data_itself_is_no_place_for_the_features(demo_bundle: Path, data: Path) -> None:
    before = written(data)
    with pytest.raises(UsageError, match="--out is DATA itself"):
        run(demo_bundle, data / "league" / "..", data)
    assert written(data) == before


def test_a_recording_may_lie_where_the_features_go(demo_bundle: Path, data: Path) -> None:
    folder = data / MATCHES[0]
    assert run(demo_bundle, folder / ".." / "A", folder / "1.mp4") == 0
    assert files_of(1) | {LABELS_NAME} <= written(folder)


def test_where_all_recordings_fail_nothing_is_written(
    demo_bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "train.txt").write_text(MATCHES[0])
    (data / "SoccerNetGamesTest.json").write_text(json.dumps(LIST))
    for video in data.rglob("*.mp4"):
        video.write_text("bad")
    with pytest.raises(DataError, match="4 of 4 recordings could not be embedded"):
        run(demo_bundle, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()
    assert capsys.readouterr().err.count("left out: ") == 4


def test_lists_are_copied_whose_matches_were_embedded(demo_bundle: Path, data: Path, tmp_path: Path) -> None:
    (data / MATCHES[0] / "2.mp4").write_text("bad")
    for video in (data / MATCHES[1]).glob("*.mp4"):
        video.write_text("bad")
    for split, match in zip(("train", "valid"), MATCHES, strict=True):
        (data / f"{split}.txt").write_text(f" {match} \n")
    with pytest.raises(DataError, match="3 of 4"):
        run(demo_bundle, tmp_path / "out", data)
    assert {path.name for path in (tmp_path / "out").glob("*.*")} == {"train.txt"}


def test_files_that_are_no_split_list_are_left_alone(demo_bundle: Path, data: Path, tmp_path: Path) -> None:
    (data / "latin.txt").write_bytes(MATCHES[0].encode() + b"\n\xe9t\xe9\n")
    (data / "notes.txt").write_text("buy milk\n")
    (data / "folder.txt").mkdir()
    for number, text in enumerate(("{", "[]", '{"league": 1}', '{"league": {"season": 1}}')):
        (data / f"SoccerNetGames{number}.json").write_text(text)
    assert run(demo_bundle, tmp_path / "out", data) == 0
    assert not list((tmp_path / "out").glob("*.*"))


def test_lists_name_matches_below_the_task_folder_without_it(demo_bundle: Path, data: Path, tmp_path: Path) -> None:
    (data / "spotting").mkdir()
    (data / "league").rename(data / "spotting" / "league")
    (data / "train.txt").write_text(MATCHES[0])
    assert run(demo_bundle, tmp_path / "out", data) == 0
    assert (tmp_path / "out" / "train.txt").is_file()
    assert (tmp_path / "out" / "spotting" / MATCHES[0] / "1_demo_visual.npy").is_file()


def test_features_that_are_kept_get_the_labels_that_are_there_now(
    demo_bundle: Path, data: Path, tmp_path: Path, embedded: list[Path]
) -> None:
    assert run(demo_bundle, tmp_path / "out", data) == 0
    assert not (tmp_path / "out" / MATCHES[1] / LABELS_NAME).exists()
    (data / MATCHES[1] / LABELS_NAME).write_text("new")
    (data / MATCHES[0] / "2.mp4").write_text("another recording")
    embedded.clear()
    assert run(demo_bundle, tmp_path / "out", data) == 0
    assert embedded == [data / MATCHES[0] / "2.mp4"]
    assert (tmp_path / "out" / MATCHES[1] / LABELS_NAME).read_text() == "new"
