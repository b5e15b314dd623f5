"""Lists of matches: where they are found, what is skipped, what the protocols say."""

import json
import logging
import sys
from pathlib import Path

import pytest

from engines.errors import DataError, UsageError
from training.data import soccernet
from training.data.splits import match_folder, protocol, read_split

MATCHES = [f"england_epl/2014-2015/2015-0{n}-21 - 18-00 Chelsea {n} - 1 Burnley" for n in range(1, 6)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for match in MATCHES:
        (tmp_path / match).mkdir(parents=True)
    return tmp_path


def write_json(path: Path, matches: list[str]) -> None:
    tree: dict[str, dict[str, list[str]]] = {}
    for match in matches:
        league, season, game = match.split("/")
        tree.setdefault(league, {}).setdefault(season, []).append(game)
    path.write_text(json.dumps(tree))


def install_package(folder: Path, monkeypatch: pytest.MonkeyPatch, matches: list[str]) -> None:
    """Put a package there that answers as SoccerNet's does."""
    package = folder / "packages" / "SoccerNet"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "utils.py").write_text(
        f"def getListGames(split):\n    return {matches!r} if split == ['train'] else []\n"
    )
    monkeypatch.syspath_prepend(str(package.parent))
    for module in ("SoccerNet", "SoccerNet.utils"):
        monkeypatch.setitem(sys.modules, module, None)  # for the list of what to undo
        del sys.modules[module]


def without_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("SoccerNet", "SoccerNet.utils"):
        monkeypatch.setitem(sys.modules, module, None)


def test_a_text_list_comes_before_a_json_list_and_the_package(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(data, monkeypatch, MATCHES[:1])
    assert read_split(data, "train") == MATCHES[:1]
    write_json(data / "SoccerNetGamesTrain.json", MATCHES[1:3])
    assert read_split(data, "train") == MATCHES[1:3]
    (data / "train.txt").write_text(f"{MATCHES[4]}\n\n {MATCHES[3]} \n")
    assert read_split(data, "train") == [MATCHES[4], MATCHES[3]]


def test_without_any_list_the_sentence_names_both_files_and_the_package(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_package(monkeypatch)
    with pytest.raises(DataError, match=r"test\.txt.*SoccerNetGamesTest\.json.*SoccerNet package"):
        read_split(data, "test")


def test_the_package_is_not_asked_for_a_split_it_does_not_know(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(data, monkeypatch, MATCHES)
    with pytest.raises(DataError, match="own-split"):
        read_split(data, "own-split")


def test_absent_matches_are_skipped_with_one_note(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    absent = [f"league/season/{n}" for n in range(7)]
    (data / "valid.txt").write_text("\n".join([absent[0], *MATCHES, *absent[1:]]))
    with caplog.at_level(logging.WARNING):
        assert read_split(data, "valid") == MATCHES
    (record,) = caplog.records
    assert "12 matches; 7 are not" in record.getMessage()
    assert "league/season/0; league/season/1; league/season/2; …" in record.getMessage()


def test_a_list_of_which_nothing_is_there_is_an_error(data: Path) -> None:
    (data / "test.txt").write_text("league/season/a\n")
    with pytest.raises(DataError, match="1 matches, none of which"):
        read_split(data, "test")
    (data / "test.txt").write_text("\n")
    with pytest.raises(DataError, match=r"test\.txt lists no match"):
        read_split(data, "test")


def test_the_leagues_may_lie_in_the_spotting_folder(tmp_path: Path) -> None:
    (tmp_path / "spotting" / MATCHES[0]).mkdir(parents=True)
    (tmp_path / "train.txt").write_text(MATCHES[0])
    assert read_split(tmp_path, "train") == MATCHES[:1]
    assert match_folder(tmp_path, MATCHES[0]) == tmp_path / "spotting" / MATCHES[0]
    (tmp_path / MATCHES[0]).mkdir(parents=True)
    assert match_folder(tmp_path, MATCHES[0]) == tmp_path / MATCHES[0]


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"league": ["match"]}', '{"league": {"season": 3}}'])
def test_a_damaged_json_list_is_one_sentence(data: Path, content: str) -> None:
    (data / "SoccerNetGamesTrain.json").write_text(content)
    with pytest.raises(DataError, match=r"SoccerNetGamesTrain\.json: is not a list of matches"):
        read_split(data, "train")


def test_a_list_that_is_no_text_is_one_sentence(data: Path) -> None:
    (data / "train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"train\.txt"):
        read_split(data, "train")
    (data / "train.txt").unlink()
    (data / "train.txt").mkdir()
    with pytest.raises(DataError, match=r"train\.txt.*cannot be read"):
        read_split(data, "train")


def test_the_split_of_our_own_data_is_its_list(shared: Path) -> None:
    root = shared / "data" / "grf"
    for split, count in (("train", 17), ("valid", 2), ("test", 3)):
        assert read_split(root, split) == (root / f"{split}.txt").read_text().splitlines()
        assert len(read_split(root, split)) == count


def test_recipes_read_splits_in_the_same_way() -> None:
    assert soccernet.read_split is read_split


def test_protocol_1_keeps_the_splits_apart(caplog: pytest.LogCaptureFixture) -> None:
    assert protocol("P1") == {"train": ("train",), "valid": ("valid",), "test": ("test",)}
    assert not caplog.records


def test_protocol_2_trains_on_all_labels_and_says_that_no_honest_test_is_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert protocol("P2") == {"train": ("train", "valid", "test"), "valid": (), "test": ()}
    assert "no honest test" in caplog.text


def test_another_protocol_is_refused() -> None:
    with pytest.raises(UsageError, match="P1, P2"):
        protocol("P3")
