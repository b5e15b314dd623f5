"""Commands steer what is said, and never break the life of a spot."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from streamer.desk import Desk

OWN = {"Goal": 0.5, "Foul": 0.4}


def spot(label: str = "Goal", state: str = "confirmed", identifier: str = "1") -> Spot:
    return replace(Spot(identifier, "main", 1, 0, label, 1.0, 0.9, 4.0), state=state)  # type: ignore[arg-type]


def ordered(desk: Desk, command: str, **payload: object) -> bool:
    return desk.obey(command, json.dumps(payload).encode()).ok


def test_a_paused_desk_says_nothing_until_it_is_told_to() -> None:
    desk = Desk(OWN)
    assert ordered(desk, "pause")
    assert not desk.lets(spot())
    assert ordered(desk, "pause", paused=False)
    assert desk.lets(spot())


def test_a_muted_label_is_silent_and_no_other() -> None:
    desk = Desk(OWN)
    assert ordered(desk, "mute", label="Goal")
    assert not desk.lets(spot("Goal"))
    assert desk.lets(spot("Foul"))
    assert ordered(desk, "mute", label="Goal", muted=False)
    assert desk.lets(spot("Goal"))


def test_a_spot_that_was_spoken_of_gets_its_final_word_though_all_is_paused() -> None:
    desk = Desk(OWN)
    assert desk.lets(spot(state="provisional"))
    ordered(desk, "pause")
    assert not desk.lets(spot(state="provisional"))
    assert desk.lets(spot(state="retracted"))
    assert not desk.lets(spot(state="confirmed", identifier="2"))


def test_a_threshold_reaches_the_middle_and_null_gives_it_back() -> None:
    desk, told = Desk(OWN), []
    desk.attach(lambda label, threshold: told.append((label, threshold)))
    assert ordered(desk, "threshold", label="Goal", threshold=0.9)
    assert ordered(desk, "threshold", label="Goal", threshold=None)
    assert told == [("Goal", 0.9), ("Goal", 0.5)]
    assert desk.thresholds == {}


def test_what_was_ordered_outlives_the_run() -> None:
    desk, told = Desk(OWN), []
    for command, payload in (
        ("pause", {}),
        ("mute", {"label": "Foul"}),
        ("threshold", {"label": "Goal", "threshold": 1}),
    ):
        assert desk.obey(command, json.dumps(payload).encode()).ok
    again = Desk(OWN)
    again.recall(desk.as_text())
    again.attach(lambda label, threshold: told.append((label, threshold)))
    assert (again.paused, again.muted, again.thresholds) == (True, {"Foul"}, {"Goal": 1.0})
    assert told == [("Goal", 1.0)]


def test_another_bundle_forgets_labels_that_it_does_not_have() -> None:
    desk = Desk(OWN)
    ordered(desk, "mute", label="Foul")
    again = Desk({"Goal": 0.5})
    again.recall(desk.as_text())
    assert again.muted == set()


@pytest.mark.parametrize(
    ("command", "payload", "why"),
    [
        ("stop", b"{}", "no command 'stop'; there are pause, mute, threshold"),
        ("mute", b"{}", "label: Field required"),
        ("mute", b'{"label": "Rain"}', "no label 'Rain'"),
        ("threshold", b'{"label": "Goal", "threshold": 2}', "threshold"),
        ("pause", b"[1", "not a command"),
        ("pause", b"\xff", "not a command"),
    ],
)
def test_a_command_that_cannot_be_obeyed_is_answered_with_why(command: str, payload: bytes, why: str) -> None:
    answer = Desk(OWN).obey(command, payload)
    assert not answer.ok
    assert answer.reason is not None
    assert why in answer.reason


def test_an_answer_names_the_request() -> None:
    desk = Desk(OWN)
    assert desk.obey("pause", b'{"request_id": "r1"}').request_id == "r1"
    assert desk.obey("mute", b'{"request_id": "r2", "label": "Rain"}').request_id == "r2"
    assert desk.obey("mute", b'{"request_id": "r3"}').request_id == "r3"
    assert desk.obey("mute", b'{"request_id": 7}').request_id is None


@given(st.sampled_from(["pause", "mute", "threshold", "x" * 1000]), st.binary(max_size=100))
def test_no_payload_makes_it_raise(command: str, payload: bytes) -> None:
    Desk(OWN).obey(command, payload)
