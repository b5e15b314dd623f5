"""SoccerNet's labels in kloppy's words, so that what we say can be joined with event data.

kloppy names what happened by an event type and, where it has one, a result, a set piece or a card.
Source: kloppy 3.19.1, `kloppy.domain`; names of its enumerations' members, so that `EventType[event_type]` finds them.
"""

from typing import NamedTuple


class KloppyName(NamedTuple):
    """kloppy's `EventType`, and the name of its result, set piece or card type; None where there is none."""

    event_type: str
    event_detail: str | None = None


OTHER = KloppyName("GENERIC")
"""A label that is none of SoccerNet's."""

KLOPPY_NAMES: dict[str, KloppyName] = {
    "Penalty": KloppyName("SHOT", "PENALTY"),
    "Kick-off": KloppyName("PASS", "KICK_OFF"),
    "Goal": KloppyName("SHOT", "GOAL"),
    "Substitution": KloppyName("SUBSTITUTION"),
    "Offside": KloppyName("PASS", "OFFSIDE"),
    "Shots on target": KloppyName("SHOT", "SAVED"),
    "Shots off target": KloppyName("SHOT", "OFF_TARGET"),
    "Clearance": KloppyName("CLEARANCE"),
    "Ball out of play": KloppyName("BALL_OUT"),
    "Throw-in": KloppyName("PASS", "THROW_IN"),
    "Foul": KloppyName("FOUL_COMMITTED"),
    "Indirect free-kick": KloppyName("PASS", "FREE_KICK"),
    "Direct free-kick": KloppyName("SHOT", "FREE_KICK"),
    "Corner": KloppyName("PASS", "CORNER_KICK"),
    "Yellow card": KloppyName("CARD", "FIRST_YELLOW"),
    "Red card": KloppyName("CARD", "RED"),
    "Yellow->red card": KloppyName("CARD", "SECOND_YELLOW"),
}


def kloppy_name(label: str) -> KloppyName:
    """Return how kloppy calls what a label says; `GENERIC` for labels that are not SoccerNet's."""
    return KLOPPY_NAMES.get(label, OTHER)
