import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes import fake_bundle, second

from engines.decider import Spot
from engines.errors import DataError
from engines.spotter import Spotter
from streamer.payload import spot_from_json
from streamer.results import WordsFile, write_results

SAID = datetime(2025, 5, 31, 19, tzinfo=UTC)


def some_spots() -> list[Spot]:
    spotter = Spotter(fake_bundle(), "s", half=2)
    return spotter.push(second(0, 250)) + spotter.flush()


def test_results_are_in_soccernets_format(tmp_path: Path) -> None:
    path = tmp_path / "results_spotting.json"
    write_results(path, some_spots(), "match")
    content = json.loads(path.read_text())
    assert content["UrlLocal"] == "match"
    assert content["predictions"][0] == {
        "gameTime": "2 - 00:00",
        "label": "Foul",
        "position": "500",
        "half": "2",
        "confidence": "0.980392",
    }


@pytest.mark.parametrize("name", [".", "absent/results.json"])
def test_a_path_that_is_no_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        write_results(Path(name) if name == "." else tmp_path / name, some_spots(), "match")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "results_spotting.json"
    path.write_text("old")
    (tmp_path / "results_spotting.json.part").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_results(path, some_spots(), "match")
    assert path.read_text() == "old"


def test_results_hold_what_was_confirmed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "results_spotting.json"
    one = some_spots()[0]
    words = [replace(one, state="provisional"), replace(one, revision=2), replace(one, id="2", state="retracted")]
    write_results(path, words, "match")
    assert len(json.loads(path.read_text())["predictions"]) == 1


def test_every_word_is_in_the_file_as_soon_as_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "words.jsonl"
    file, words = WordsFile(path), [replace(some_spots()[0], state="provisional"), *some_spots()]
    assert not path.exists()
    file.open()
    for count, word in enumerate(words, 1):
        file.say(word, SAID)
        assert [spot_from_json(line)[0] for line in path.read_text().splitlines()] == words[:count]
    file.open()  # of the second half: goes on
    file.say(words[0], SAID)
    file.close()
    assert len(path.read_text().splitlines()) == len(words) + 1


def test_words_that_cannot_be_written_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        WordsFile(tmp_path / "absent" / "words.jsonl").open()
