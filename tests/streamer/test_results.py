import json
from pathlib import Path

import pytest
from fakes import fake_bundle, second

from engines.decider import Spot
from engines.errors import DataError
from engines.spotter import Spotter
from streamer.results import write_results


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
