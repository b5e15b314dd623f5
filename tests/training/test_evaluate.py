"""`touchline evaluate`: what it reads, prints, leaves out and refuses."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.errors import DataError, UsageError
from engines.labels import SOCCERNET_LABELS
from streamer.files.results import zip_results
from training.data.results import LABELS_NAME, RESULTS_NAME, find_matches, read_predictions, read_truth
from training.evaluate import add_arguments, run

MATCH = "league/2031-2032/2031-08-16 - 15-00 A 1 - 0 B"
OTHER = "league/2031-2032/2031-08-23 - 15-00 C 0 - 0 D"
ACTIONS: list[dict[str, Any]] = [
    {"gameTime": "1 - 01:40", "label": "Goal", "position": "100000", "visibility": "visible"},
    {"gameTime": "2 - 03:20", "label": "Foul", "position": "200000", "visibility": "not shown"},
]
PREDICTIONS: list[dict[str, Any]] = [
    {"gameTime": "1 - 01:40", "label": "Goal", "position": "100000", "half": "1", "confidence": "0.9"},
    {"gameTime": "2 - 03:21", "label": "Foul", "position": "201000", "half": "2", "confidence": 0.8},
]


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def write_labels(folder: Path, annotations: object = ACTIONS) -> Path:
    return write(folder / LABELS_NAME, {"annotations": annotations})


def write_results(folder: Path, predictions: object = PREDICTIONS) -> Path:
    return write(folder / RESULTS_NAME, {"predictions": predictions})


def evaluate(*arguments: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run(parser.parse_args([str(argument) for argument in arguments]))


def evaluate_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert evaluate(*arguments, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert isinstance(result, dict)
    return result


def refused(predictions: Path, labels: Path) -> str:
    with pytest.raises(DataError) as caught:
        evaluate(predictions, "--labels", labels)
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    return text


def test_json_is_one_object_with_the_packages_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = evaluate_json(capsys, write_results(tmp_path), "--labels", write_labels(tmp_path))
    assert set(result) == {
        "metric",
        "labels",
        "a_mAP",
        "a_mAP_per_class",
        "a_mAP_visible",
        "a_mAP_per_class_visible",
        "a_mAP_unshown",
        "a_mAP_per_class_unshown",
        "a_mAP_occurring",
    }
    assert result["metric"] == "tight"
    assert tuple(result["labels"]) == SOCCERNET_LABELS
    per_label = dict(zip(result["labels"], result["a_mAP_per_class"], strict=True))
    assert (per_label["Goal"], per_label["Foul"]) == (1, 0.875)
    assert result["a_mAP"] == pytest.approx(1.875 / 17)
    assert result["a_mAP_occurring"] == pytest.approx(1.875 / 2)


def test_metric_chooses_the_tolerances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = (write_results(tmp_path), "--labels", write_labels(tmp_path), "--metric")
    occurring = [evaluate_json(capsys, *files, m)["a_mAP_occurring"] for m in ("at1", "at2", "loose")]
    assert occurring == [0.5, 1, 1]


def test_table_shows_each_label_and_both_averages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(write_results(tmp_path), "--labels", write_labels(tmp_path)) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Goal", "100.00", "100.00", "-", "1"] in lines
    assert ["Foul", "87.50", "-", "87.50", "1"] in lines
    assert ["Corner", "-", "-", "-", "0"] in lines
    assert ["average", "of", "all", "17", "11.03", "5.88", "6.73", "2"] in lines
    assert ["average", "of", "the", "2", "occurring", "93.75", "2"] in lines


def test_table_fits_a_terminal_of_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(write_results(tmp_path), "--labels", write_labels(tmp_path))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_matches_of_a_tree_are_judged_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for match in (MATCH, OTHER):
        write_labels(tmp_path / "labels" / match)
    write_results(tmp_path / "results" / MATCH)
    write_results(tmp_path / "results" / OTHER, [])
    result = evaluate_json(capsys, tmp_path / "results", "--labels", tmp_path / "labels", "--metric", "loose")
    assert result["a_mAP_occurring"] == pytest.approx(6 / 11)


def test_predictions_and_labels_may_share_one_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path / MATCH)
    write_results(tmp_path / MATCH)
    assert evaluate_json(capsys, tmp_path, "--labels", tmp_path)["a_mAP_occurring"] == 0.9375


def test_matches_that_lack_one_side_are_left_out_and_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labels(tmp_path / "labels" / MATCH)
    write_labels(tmp_path / "labels" / OTHER)
    write_results(tmp_path / "results" / MATCH)
    write_results(tmp_path / "results/league/season/unlabelled")
    evaluate(tmp_path / "results", "--labels", tmp_path / "labels", "--json")
    said = capsys.readouterr()
    assert json.loads(said.out)["a_mAP_occurring"] == 0.9375
    assert said.err.splitlines() == [
        f"note: left out 1 of 2 matches, which have no results: {OTHER}",
        "note: left out 1 of 2 matches, which have no labels: league/season/unlabelled",
    ]


def test_labels_outside_of_soccernets_are_left_out_and_said_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = write_labels(tmp_path, [*ACTIONS, ACTIONS[0] | {"label": "PASS"}])
    results = write_results(tmp_path, [*PREDICTIONS, *([PREDICTIONS[0] | {"label": "goal"}] * 2)])
    evaluate(results, "--labels", labels, "--json")
    said = capsys.readouterr()
    assert json.loads(said.out)["a_mAP_occurring"] == 0.9375
    assert said.err.splitlines() == [
        "note: left out 1 actions of labels that SoccerNet-v2 does not have: PASS",
        "note: left out 2 predictions of labels that SoccerNet-v2 does not have: goal",
    ]


def test_the_originals_figures_come_out_of_a_tree(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared / "fixtures" / "metric_cases.json"
    if not path.is_file():
        pytest.skip("../shared/fixtures is not there")
    case = json.loads(path.read_text(encoding="utf-8"))["random_3games"]
    for match, game in case["games"].items():
        write_labels(tmp_path / match, game["annotations"])
        write_results(tmp_path / match, game["predictions"])
    for metric, wanted in case["results"].items():
        result = evaluate_json(capsys, tmp_path, "--labels", tmp_path, "--metric", metric)
        for key, value in wanted.items():
            assert result[key] == pytest.approx(value, abs=1e-12, rel=0), f"{metric} {key}"


def test_corrected_leaves_out_and_names_what_never_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = (write_results(tmp_path), "--labels", write_labels(tmp_path), "--corrected")
    result = evaluate_json(capsys, *files)
    assert result["corrected"] is True
    assert result["a_mAP"] == result["a_mAP_occurring"] == 0.9375
    assert set(result["labels_without_action"]) == set(SOCCERNET_LABELS) - {"Goal", "Foul"}
    evaluate(*files)
    said = " ".join(capsys.readouterr().out.split())
    assert "average of the 2 occurring 93.75 100.00 87.50 2" in said
    assert "average of all" not in said
    assert "Never happens: Penalty, Kick-off" in said


def test_clock_chooses_whole_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_labels(tmp_path, [ACTIONS[0] | {"position": "100900"}])
    files = (write_results(tmp_path, [PREDICTIONS[0] | {"position": "101000"}]), "--labels", labels, "--metric", "at1")
    assert evaluate_json(capsys, *files)["a_mAP_occurring"] == 1
    assert evaluate_json(capsys, *files, "--clock", "gameTime")["a_mAP_occurring"] == 0
    truth, _ = read_truth(labels, clock="gameTime")
    assert truth[1].positions_ms_N.tolist() == [100_000]


# Zips


def test_a_zip_is_judged_like_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for match in (MATCH, OTHER):
        write_labels(tmp_path / "labels" / match)
        write_results(tmp_path / "results" / match)
    packed = tmp_path / "challenge.zip"
    assert zip_results(tmp_path / "results", packed) == [MATCH, OTHER]
    with zipfile.ZipFile(packed) as file:
        assert file.namelist() == [f"{MATCH}/{RESULTS_NAME}", f"{OTHER}/{RESULTS_NAME}"]
    judged = [
        evaluate_json(capsys, results, "--labels", tmp_path / "labels") for results in (packed, tmp_path / "results")
    ]
    assert judged[0] == judged[1]


def test_a_zip_depends_on_nothing_but_the_results(tmp_path: Path) -> None:
    write_results(tmp_path / "results" / MATCH)
    (tmp_path / "results" / MATCH / "notes.txt").write_text("not for the challenge")
    packed = [tmp_path / name for name in ("one.zip", "two.zip")]
    for path in packed:
        zip_results(tmp_path / "results", path)
    assert packed[0].read_bytes() == packed[1].read_bytes()
    assert find_matches(packed[0], RESULTS_NAME) == [MATCH]


def test_results_that_cannot_be_packed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no <league>/<season>/<match>/results_spotting\.json"):
        zip_results(tmp_path, tmp_path / "out.zip")
    write_results(tmp_path / MATCH)
    with pytest.raises(DataError, match="cannot be packed"):
        zip_results(tmp_path, tmp_path / "nowhere" / "out.zip")


def test_damaged_and_lonely_zips_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    single = write_labels(labels / MATCH)
    write_results(tmp_path / "results" / MATCH)
    packed = tmp_path / "challenge.zip"
    zip_results(tmp_path / "results", packed)
    with pytest.raises(UsageError, match="is a zip; give two files or two folders"):
        evaluate(packed, "--labels", single)
    content = bytearray(packed.read_bytes())
    content[len(MATCH) + 60] ^= 0xFF
    packed.write_bytes(content)
    assert "is not a readable zip" in refused(packed, labels)
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(f"{MATCH}/{RESULTS_NAME}", "{")
    assert f"{packed}: {MATCH}/{RESULTS_NAME}: is not JSON" in refused(packed, labels)
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr(f"results/{MATCH}/{RESULTS_NAME}", json.dumps({"predictions": []}))
    assert "holds no <league>/<season>/<match>/" in refused(packed, labels)


def test_a_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "tree" / MATCH)
    write_results(tmp_path / "tree" / MATCH)
    with pytest.raises(UsageError, match=r"is a file, but .* is a folder; give two files or two folders"):
        evaluate(tmp_path / "tree", "--labels", labels)


def test_missing_paths_and_empty_trees_are_refused(tmp_path: Path) -> None:
    labels, results = write_labels(tmp_path), write_results(tmp_path)
    assert "no such file or folder" in refused(tmp_path / "nowhere.json", labels)
    assert "no such file or folder" in refused(results, tmp_path / "nowhere.json")
    write_labels(tmp_path / "labels" / MATCH)
    write_results(tmp_path / "results" / OTHER)
    assert "<league>/<season>/<match>/results_spotting.json" in refused(tmp_path / "labels", tmp_path / "labels")
    assert "for none of the matches" in refused(tmp_path / "results", tmp_path / "labels")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([], 'holds no list "predictions"'),
        ({"predictions": {}}, 'holds no list "predictions"'),
        ({"annotations": []}, 'holds no list "predictions"'),
        ({"predictions": [1]}, "predictions[0] is not an object"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path: Path, content: object, said: str) -> None:
    results = write(tmp_path / RESULTS_NAME, content)
    text = refused(results, write_labels(tmp_path))
    assert text.startswith(str(results))
    assert said in text


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    results = write_results(tmp_path)
    results.write_bytes(b"\xff\xfe\x00")
    assert "is not JSON" in refused(results, write_labels(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"half": "3"}, "is of half '3'"),
        ({"half": None}, "is of half None"),
        ({"half": True}, "is of half True"),
        ({"label": 3}, 'has "label" 3'),
        ({"position": "1000.5"}, "has \"position\" '1000.5'; give whole milliseconds"),
        ({"position": None}, 'has "position" None'),
        ({"position": -8_000_000}, "120 minutes before its half"),
        ({"confidence": "high"}, "has \"confidence\" 'high'"),
        ({"confidence": None}, 'has "confidence" None'),
        ({"confidence": "nan"}, "has \"confidence\" 'nan'"),
        ({"confidence": [0.5]}, 'has "confidence" [0.5]'),
        ({"confidence": 10**400}, 'has "confidence"'),
    ],
)
def test_predictions_with_an_impossible_value_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    results = write_results(tmp_path, [PREDICTIONS[0], PREDICTIONS[1] | change])
    text = refused(results, write_labels(tmp_path))
    assert text.startswith(f"{results}: predictions[1] ")
    assert said in text


@pytest.mark.parametrize("key", ["label", "position", "half", "confidence"])
def test_predictions_that_lack_a_value_are_refused(tmp_path: Path, key: str) -> None:
    results = write_results(tmp_path, [{k: v for k, v in PREDICTIONS[0].items() if k != key}])
    assert f'predictions[0] has no "{key}"' in refused(results, write_labels(tmp_path))


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"label": "Goal", "position": "1"}, 'annotations[0] has no "gameTime"'),
        ({"gameTime": "3 - 00:01", "label": "Goal", "position": "1"}, "is of half '3'"),
        ({"gameTime": "", "label": "Goal", "position": "1"}, "is of half ''"),
        ({"gameTime": "1 - soon", "label": "Goal"}, 'has no "position", and "gameTime" \'1 - soon\''),
        ({"gameTime": "1 - 00:01"}, 'has no "label"'),
    ],
)
def test_impossible_labels_are_refused(tmp_path: Path, annotation: dict[str, Any], said: str) -> None:
    assert said in refused(write_results(tmp_path), write_labels(tmp_path, [annotation]))


def test_positions_far_beyond_any_half_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_results(tmp_path, [PREDICTIONS[0] | {"position": 10**30}])
    labels = write_labels(tmp_path, [ACTIONS[0] | {"position": "7300000"}])
    assert evaluate_json(capsys, results, "--labels", labels)["a_mAP_occurring"] == 1


def test_labels_without_position_are_read_from_two_digits_of_minutes(tmp_path: Path) -> None:
    labels = write_labels(
        tmp_path, [{"gameTime": "1 - 105:30", "label": "Goal"}, {"gameTime": "2 - 5:07", "label": "Foul"}]
    )
    truth, left_out = read_truth(labels)
    assert truth[1].positions_ms_N.tolist() == [330_000]
    assert truth[2].positions_ms_N.tolist() == [307_000]
    assert truth[1].visible_N.tolist() == [True]
    assert not left_out


def test_labels_of_version_1_are_read_by_the_words_they_hold(tmp_path: Path) -> None:
    names = ["r-card", "substitution-in", "soccer-ball-own", "corner"]
    labels = write(tmp_path / "Labels.json", {"annotations": [{"gameTime": "1 - 10:00", "label": n} for n in names]})
    truth, left_out = read_truth(labels, ("card", "subs", "soccer"), version=1)
    assert truth[1].labels_N.tolist() == [0, 1, 2]
    assert dict(left_out) == {"corner": 1}


def test_predictions_keep_the_files_order(tmp_path: Path) -> None:
    times = [3000, 1000, 2000]
    results = write_results(tmp_path, [PREDICTIONS[0] | {"position": str(ms), "confidence": ms / 7000} for ms in times])
    found, _ = read_predictions(results)
    assert found[1].positions_ms_N.tolist() == times
    assert found[1].confidences_N.tolist() == [ms / 7000 for ms in times]
    assert found[2].positions_ms_N.dtype == np.int64


def test_unknown_metric_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate(write_results(tmp_path), "--labels", write_labels(tmp_path), "--metric", "at9")
    assert caught.value.code == UsageError.exit_code
    assert "at9" in capsys.readouterr().err
