"""What is said, as JSON: the data of every message, and spots back from it.

One type a kind of message; the JSON Schemas and the AsyncAPI document are made from them (`streamer/contract.py`), and
the same objects go over MQTT and to the pages. Promise: reading a spot that was written gives an equal one. A field is
never renamed nor taken away within a version; unknown ones are passed over.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, WithJsonSchema

from engines.bundle import BundleName
from engines.decider import Spot
from engines.errors import DataError
from streamer.kloppy_names import kloppy_name


def utc_text(instant: datetime) -> str:
    """Return an aware instant as ISO 8601 in UTC with microseconds: `2025-05-31T19:00:00.000000Z`."""
    if instant.tzinfo is None:
        raise ValueError(f"{instant}: an instant without a time zone is not accepted.")
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


Utc = Annotated[
    AwareDatetime,
    PlainSerializer(utc_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Name = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
ClockName = Literal["rtcp", "prft", "hls", "arrival"]
Pts = Annotated[int, Field(ge=0, lt=2**33)]
Stream = Annotated[str, Field(description="the broadcast's name")]
Run = Annotated[str, Field(description="tells one run of a stream from another")]
Half = Annotated[int, Field(description="which file of a match; always 1 live")]
Epoch = Annotated[int, Field(description="unbroken stretch of media time")]
ScoredBy = Annotated["BundleRef | None", Field(description="what scores; null if nobody knows")]
Clock = Annotated[ClockName | None, Field(description="who says so; `arrival` is the streamer's own clock")]
Paused = Annotated[bool, Field(description="whether nothing is said")]
Muted = Annotated[list[str], Field(description="labels of which nothing is said")]
Thresholds = Annotated[dict[str, float], Field(description="label → threshold set by command")]
RequestId = Annotated[str | None, Field(description="the sender's own; the answer repeats it")]


class Message(BaseModel):
    """The data of a message."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)


class BundleRef(Message):
    """Which bundle scored it."""

    name: Annotated[str, Field(description="as its manifest says")]
    digest: Annotated[str, Field(description="SHA-256 of the bundle's manifest")]


class SpotMessage(Message):
    """One word about one action: provisional at will, then exactly one final word, confirmed or retracted."""

    id: Annotated[Name, Field(description="of the spot; all its words share it, and a redelivery repeats it")]
    stream: Stream
    half: Annotated[Half, Field(ge=1)]
    epoch: Annotated[Epoch, Field(ge=0)]
    label: Annotated[Name, Field(description="SoccerNet's spelling")]
    event_type: Annotated[str, Field(description="kloppy's event type")] = "GENERIC"
    event_detail: Annotated[str | None, Field(description="kloppy's result, set piece or card type")] = None
    media_time: Annotated[Seconds, Field(description="when it happened: seconds since the stream's first picture")]
    pts: Annotated[Pts | None, Field(description="the same by the stream's timestamps, 90 kHz, 33 bits")] = None
    utc: Annotated[Utc | None, Field(description="the same by the wall clock that `clock` names")] = None
    clock: Clock = None
    confidence: Annotated[Share, Field(description="score at the spot's peak")]
    state: Annotated[
        Literal["provisional", "confirmed", "retracted"], Field(description="the last two are final: no word follows")
    ]
    revision: Annotated[int, Field(ge=1, description="counts the words of an id")]
    emitted_at: Annotated[Seconds, Field(description="the media clock when this was said")]
    said_utc: Annotated[Utc, Field(description="the wall clock when this was said")]
    latency: Annotated[
        dict[str, float],
        Field(description="seconds by part: grid, look_ahead and hold in media time, compute in wall clock"),
    ]
    bundle: ScoredBy = None
    flags: Annotated[list[str], Field(description="what was wrong with the seconds it rests on")]

    @classmethod
    def of(cls, spot: Spot, said_utc: datetime) -> "SpotMessage":
        """Return a spot as a message.

        Args:
            spot: what was said.
            said_utc: when it was said, wall clock; aware.
        """
        event = kloppy_name(spot.label)
        return cls(
            id=spot.id,
            stream=spot.stream,
            half=spot.half,
            epoch=spot.epoch,
            label=spot.label,
            event_type=event.event_type,
            event_detail=event.event_detail,
            media_time=spot.media_time,
            pts=spot.pts,
            utc=spot.utc,
            clock=spot.clock,  # type: ignore[arg-type]  # pydantic checks it
            confidence=spot.confidence,
            state=spot.state,
            revision=spot.revision,
            emitted_at=spot.emitted_at,
            said_utc=said_utc,
            latency=dict(spot.latency),
            bundle=BundleRef(**spot.bundle._asdict()) if spot.bundle is not None else None,
            flags=list(spot.flags),
        )

    def spot(self) -> Spot:
        """Return the spot.

        Raises:
            DataError: an instant is out of range.
        """
        fields = {name: getattr(self, name) for name in _SPOT_FIELDS}
        try:
            utc = self.utc.astimezone(UTC) if self.utc is not None else None
        except OverflowError as error:
            raise DataError("This message is not a spot: an instant is out of range.") from error
        bundle = BundleName(self.bundle.name, self.bundle.digest) if self.bundle is not None else None
        return Spot(**fields | {"flags": tuple(self.flags), "utc": utc, "bundle": bundle})


_SPOT_FIELDS = (
    *("id", "stream", "half", "epoch", "label", "media_time", "confidence", "emitted_at", "state", "revision"),
    *("latency", "clock", "pts"),
)


class Health(Message):
    """How one part of the streamer does."""

    state: Annotated[Literal["ok", "warning", "failed"], Field(description="how bad it is")]
    reason: Annotated[str | None, Field(description="one sentence, unless all is well")] = None


class StatusMessage(Message):
    """How a stream is; retained, and the streamer's last will."""

    stream: Stream
    run: Run
    state: Annotated[
        Literal["online", "stopped", "offline"],
        Field(description="stopped: has ended in good order, at the stream's end or for `reason`; offline: lost"),
    ]
    reason: Annotated[str | None, Field(description="why it has stopped, unless at the stream's own end")] = None
    at_utc: Annotated[Utc, Field(description="when this was said; of `offline`, when the streamer connected")]
    health: Annotated[dict[str, Health], Field(description="by role: source, engines, outbox, broker, files")] = {}
    source: Annotated[dict[str, Any] | None, Field(description="the source's state, its cause and reason")] = None
    bundle: ScoredBy = None
    promise: Annotated[
        dict[str, float], Field(description="label → seconds after the action by which its final word is said")
    ] = {}
    paused: Paused = False
    muted: Muted = []
    thresholds: Thresholds = {}
    statistics: Annotated[dict[str, float] | None, Field(description="of the whole run; when stopped")] = None


class ClockMessage(Message):
    """Media time beside the wall clock and the stream's own timestamps; retained."""

    stream: Stream
    half: Half
    epoch: Epoch
    media_time: Annotated[Seconds, Field(description="end of the newest second")]
    pts: Annotated[Pts | None, Field(description="the same by the stream's timestamps, 90 kHz, 33 bits")] = None
    utc: Annotated[Utc | None, Field(description="when that moment was taken")] = None
    clock: Clock = None
    at_utc: Annotated[Utc, Field(description="when this was said")]


class ScoredRow(Message):
    """The scores of one row, of the labels that are confirmed with its look-ahead."""

    media_time: Annotated[Seconds, Field(description="the time that its scores are for")]
    look_ahead: Annotated[Seconds, Field(description="how much of what followed it was seen")]
    scores: Annotated[dict[str, float], Field(description="label → score")]


class ScoresMessage(Message):
    """What the last second of media scored."""

    stream: Stream
    half: Half
    epoch: Epoch
    media_time: Annotated[Seconds, Field(description="end of the newest second")]
    rows: Annotated[list[ScoredRow], Field(description="what the newest second made final")]


class Percentiles(Message):
    """Seconds."""

    p50: Annotated[float, Field(description="half of them took at most so long")]
    p95: Annotated[float, Field(description="19 of 20 took at most so long")]
    max: Annotated[float, Field(description="the longest")]


class StatsMessage(Message):
    """How the run goes, every few seconds."""

    stream: Stream
    run: Run
    at_utc: Annotated[Utc, Field(description="when this was said")]
    statistics: Annotated[dict[str, float], Field(description="counts since the run began")]
    latency: Annotated[
        dict[str, Percentiles], Field(description="of the last confirmed spots, by part, `publish` and `total`")
    ]
    outbox: Annotated[dict[str, int], Field(description="spots pending, dropped")]


class ClipMessage(Message):
    """A spot's clip has been written; pages alone hear of it."""

    id: Annotated[Name, Field(description="of the spot")]
    url: Annotated[str, Field(description="relative to the page")]


class AnswerMessage(Message):
    """What became of a command."""

    command: Annotated[str, Field(description="pause, mute or threshold; or what was taken for one")]
    request_id: RequestId = None
    ok: Annotated[bool, Field(description="whether it was obeyed")]
    reason: Annotated[str | None, Field(description="why not")] = None
    paused: Paused
    muted: Muted
    thresholds: Thresholds


class PauseCommand(Message):
    """Say nothing, from now on; or speak again."""

    request_id: RequestId = None
    paused: Annotated[bool, Field(description="false: speak again")] = True


class MuteCommand(Message):
    """Say nothing of a label, from now on; or speak again."""

    request_id: RequestId = None
    label: Annotated[Name, Field(description="one of the bundle's")]
    muted: Annotated[bool, Field(description="false: speak again")] = True


class ThresholdCommand(Message):
    """Let a label's scores count from this threshold on; null: from the bundle's own."""

    request_id: RequestId = None
    label: Annotated[Name, Field(description="one of the bundle's")]
    threshold: Annotated[Share | None, Field(description="null: the bundle's own again")]


COMMANDS: dict[str, type[PauseCommand | MuteCommand | ThresholdCommand]] = {
    "pause": PauseCommand,
    "mute": MuteCommand,
    "threshold": ThresholdCommand,
}
"""By the last level of their topic."""


def spot_to_json(spot: Spot, said_utc: datetime) -> str:
    """Return a spot as one line of JSON; see SpotMessage.of."""
    return SpotMessage.of(spot, said_utc).model_dump_json()


def spot_from_json(text: str | bytes) -> tuple[Spot, datetime]:
    """Return the spot of a line, and when it was said (UTC).

    Raises:
        DataError: it is not JSON, a field is missing, of another type or out of its range.
    """
    try:
        message = SpotMessage.model_validate_json(text)
    except ValidationError as error:
        raise not_a("spot", error) from error
    try:
        return message.spot(), message.said_utc.astimezone(UTC)
    except OverflowError as error:
        raise DataError("This message is not a spot: an instant is out of range.") from error


def not_a(kind: str, error: ValidationError) -> DataError:
    """Return in one sentence why a message is none of its kind."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return DataError(f"This message is not a {kind}: {where + ': ' if where else ''}{first['msg']}.")


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """A spot as a subscriber met it.

    Attributes:
        publish_s: from the word to its arrival here, by the wall clocks of both ends; negative if they disagree.
        message: the payload's data, as it came.
    """

    spot: Spot
    publish_s: float
    message: dict[str, Any]

    @property
    def late_s(self) -> float:
        """From the action to the arrival: delay in media time, compute and publish in wall clock."""
        return self.spot.delay_s + self.spot.latency.get("compute", 0.0) + self.publish_s
