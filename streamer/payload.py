"""Spots as JSON, and back.

Out: one flat object a spot, with `said_utc`, the wall clock when it was said. In: the same, checked; what is no spot
is a DataError. Promise: reading what was written gives an equal spot. Fields of a later version are ignored.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from engines.decider import Spot
from engines.errors import DataError


class SpotMessage(BaseModel):
    """A spot on the wire; its JSON schema is the payload's."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    id: Annotated[str, Field(min_length=1)]
    stream: str
    half: Annotated[int, Field(ge=1)]
    epoch: Annotated[int, Field(ge=0)]
    label: Annotated[str, Field(min_length=1)]
    media_time: Annotated[float, Field(ge=0)]
    confidence: Annotated[float, Field(ge=0, le=1)]
    state: Literal["provisional", "confirmed", "retracted"]
    revision: Annotated[int, Field(ge=1)]
    emitted_at: Annotated[float, Field(ge=0)]
    latency: dict[str, float]
    flags: list[str]
    said_utc: AwareDatetime
    utc: AwareDatetime | None = None
    clock: Literal["rtcp", "prft", "hls", "arrival"] | None = None


def spot_to_dict(spot: Spot, said_utc: datetime) -> dict[str, Any]:
    """Return a spot as plain values, ready for JSON.

    Args:
        spot: what was said.
        said_utc: when it was said, wall clock; aware.
    """
    fields = asdict(spot) | {"latency": dict(spot.latency), "flags": list(spot.flags), "said_utc": utc_text(said_utc)}
    return fields | {"utc": utc_text(spot.utc) if spot.utc is not None else None}


def spot_to_json(spot: Spot, said_utc: datetime) -> str:
    """Return a spot as one line of JSON; see spot_to_dict."""
    return json.dumps(spot_to_dict(spot, said_utc), allow_nan=False, ensure_ascii=False)


def spot_from_json(text: str | bytes) -> tuple[Spot, datetime]:
    """Return the spot of a message, and when it was said (UTC).

    Raises:
        DataError: it is not JSON, a field is missing, of another type or out of its range.
    """
    try:
        message = SpotMessage.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"This message is not a spot: {where + ': ' if where else ''}{first['msg']}.") from error
    fields = message.model_dump(exclude={"said_utc"})
    try:
        said_utc = message.said_utc.astimezone(UTC)
        utc = message.utc.astimezone(UTC) if message.utc is not None else None
    except OverflowError as error:
        raise DataError("This message is not a spot: an instant is out of range.") from error
    return Spot(**fields | {"flags": tuple(message.flags), "utc": utc}), said_utc


def utc_text(instant: datetime) -> str:
    """Return an aware instant as ISO 8601 in UTC with microseconds: `2025-05-31T19:00:00.000000Z`."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant}: an instant without a time zone is not accepted.")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """A spot as a subscriber met it.

    Attributes:
        publish_s: from the word to its arrival here, by the wall clocks of both ends; negative if they disagree.
        message: the payload, as it came.
    """

    spot: Spot
    publish_s: float
    message: dict[str, Any]

    @property
    def late_s(self) -> float:
        """From the action to the arrival: delay in media time, compute and publish in wall clock."""
        return self.spot.delay_s + self.spot.latency.get("compute", 0.0) + self.publish_s
