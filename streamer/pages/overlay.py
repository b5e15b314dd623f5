"""What the overlay shows, when, and how it looks: a TOML file in, a checked config out, which the page gets as JSON.

`python -m streamer.pages.overlay [FILE]` prints it as the script that a page opened from a file reads instead.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engines.errors import TouchlineError, UsageError
from streamer.pages.overlay_words import WORDS

_COLOUR = re.compile(r"#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")
_FONT = re.compile(r"[\w ,.'\"-]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
"""Of a broker; a page's policy can name no others."""


def _colour(text: str) -> str:
    if not _COLOUR.fullmatch(text):
        raise ValueError(f"{text!r} is no colour; give #rgb, #rrggbb or #rrggbbaa")
    return text


def _font(text: str) -> str:
    if not _FONT.fullmatch(text):
        raise ValueError("give families as in CSS: letters, digits, spaces, commas, quotes, dots and hyphens")
    return text


Label = Annotated[str, Field(min_length=1)]
Colour = Annotated[str, AfterValidator(_colour)]
Duration = Annotated[float, Field(ge=1, le=60)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Look(_Part):
    """How a lower third looks."""

    accent: Colour = "#ffd21f"
    background: Colour = "#0b1220f2"
    foreground: Colour = "#ffffff"
    font: Annotated[str, AfterValidator(_font)] = (
        "Bahnschrift, 'Avenir Next', 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', 'DejaVu Sans Condensed', "
        "'DejaVu Sans', sans-serif"
    )
    """Families as in CSS; of those the machine that shows the page must have one."""
    position: Literal["left", "centre", "right"] = "left"
    bottom_margin: Annotated[float, Field(ge=0, le=80)] = 9.0
    """Per cent of the picture's height below it."""
    scale: Annotated[float, Field(ge=0.5, le=2)] = 1.0
    clock: bool = False
    """Whether the action's media time is shown."""
    confidence: bool = False


class Broker(_Part):
    """Where the page listens, if not to the streamer that it came from."""

    url: str = ""
    stream: str = "main"
    prefix: str = "touchline"
    user: str = ""
    password: str = ""

    @field_validator("url")
    @classmethod
    def _websocket(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            usable = parts.scheme in {"ws", "wss"} and parts.username is None and parts.port != 0
            usable = usable and _HOST.fullmatch(parts.hostname or "") is not None
        except ValueError:
            usable = False
        if url and not usable:
            how = "a page reaches a broker at ws://host:port or wss://host:port, the host by name or IPv4 address"
            raise ValueError(f"{how}; user and password apart")
        return url

    @property
    def origin(self) -> str:
        """The URL without its path; "" if there is none."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}" if self.url else ""


class OverlayConfig(_Part):
    """What is shown, when, and how it looks; nothing given is the default."""

    labels: Annotated[list[Label], Field(min_length=1)] = [
        *("Goal", "Penalty", "Red card", "Yellow->red card", "Yellow card", "Substitution"),
    ]
    """Shown, the most important first."""
    language: str = "en"
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    provisional: bool = False
    """Whether provisional words are shown, with a question mark, until the final word comes."""
    programme_delay_s: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """How much later than our input the programme goes on air."""
    latest_s: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long after its action on the programme a spot may still come up."""
    duration_s: Duration = 6.0
    durations_s: dict[Label, Duration] = {"Goal": 8.0}
    """By label, in place of `duration_s`."""
    text: Annotated[dict[str, dict[Label, str]], Field(validate_default=True)] = {}
    """Language → label → words, over those of `overlay_words.py`."""
    look: Look = Look()
    mqtt: Broker = Broker()

    @field_validator("text")
    @classmethod
    def _over_ours(cls, text: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
        return {language: WORDS.get(language, {}) | text.get(language, {}) for language in {**WORDS, **text}}

    @model_validator(mode="after")
    def _speaks(self) -> "OverlayConfig":
        if self.language not in self.text:
            known = ", ".join(self.text)
            raise ValueError(f"language: there are no words in {self.language!r}, only in {known}; give [text.…]")
        return self


def read_overlay(path: Path | None) -> OverlayConfig:
    """Return how the overlay is to look; None: as it does by default.

    Raises:
        UsageError: the file cannot be read, is no TOML, or a key is unknown, of the wrong type or out of its range.
    """
    if path is None:
        return OverlayConfig()
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: the overlay's config cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: the overlay's config is not TOML: {str(error).rstrip('.')}.") from error
    try:
        return OverlayConfig.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"{path}: {_why(error)}") from error


def script(config: OverlayConfig) -> str:
    """Return the config as the script `overlay_config.js`."""
    return f'"use strict";\nwindow.overlayConfig = {config.model_dump_json(indent=1)};\n'


def _why(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = first["loc"]
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        return f"{key}: there is no such key; {_known(place[:-1])}."
    message = first["msg"].removeprefix("Value error, ")
    return f"{key + ': ' if key else ''}{message[:1].lower() if key else message[:1]}{message[1:]}."


def _known(place: tuple[int | str, ...]) -> str:
    part: Any = OverlayConfig
    for name in place:
        part = part.model_fields[str(name)].annotation
    return f"{'.'.join(map(str, place)) or 'the overlay'} has {', '.join(part.model_fields)}"


if __name__ == "__main__":
    try:
        sys.stdout.write(script(read_overlay(Path(sys.argv[1]) if sys.argv[1:] else None)))
    except TouchlineError as mistake:
        sys.exit(str(mistake))
