import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer import logs

SECRET = "hun ter/2é'\\"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "_secrets", {})
    level = logging.root.level
    yield
    logging.root.setLevel(level)


class Log:
    """What is written while logging is configured as a process that has just begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, form: Any) -> None:
        self._err = io.StringIO()
        monkeypatch.setattr(logging.root, "handlers", [])
        monkeypatch.setattr(sys, "stderr", self._err)
        logs.configure(logging.INFO, form)
        logging.captureWarnings(False)

    def take(self) -> str:
        text = self._err.getvalue()
        self._err.seek(0)
        self._err.truncate()
        return text


@pytest.fixture(params=["text", "json"])
def log(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch, request.param)


@pytest.fixture
def json_log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch, "json")


@pytest.fixture
def text_log(monkeypatch: pytest.MonkeyPatch) -> Log:
    return Log(monkeypatch, "text")


def test_a_line_of_text_is_time_level_logger_and_message(text_log: Log) -> None:
    logging.getLogger("touchline").warning("%d spots", 3)
    clock, rest = text_log.take().split(" ", 1)
    assert len(clock.split(":")) == 3
    assert rest == "WARNING touchline: 3 spots\n"


def test_a_line_of_json_is_an_object_with_the_same(json_log: Log) -> None:
    logging.getLogger("touchline").warning("%d spots\nof the first half", 3)
    (line,) = json_log.take().splitlines()
    record = json.loads(line)
    assert record.pop("time").endswith("Z")
    assert record == {"level": "WARNING", "logger": "touchline", "message": "3 spots\nof the first half"}


def test_an_exception_goes_along(json_log: Log) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("touchline").exception("failed", stack_info=True)
    record = json.loads(json_log.take())
    assert record["exception"].endswith("ValueError: two\nlines")
    assert record["stack"].startswith("Stack")


@pytest.mark.parametrize("logger", ["touchline", "aiohttp.access", "paho", "asyncio", "py.warnings"])
def test_a_password_in_a_url_is_not_shown(log: Log, logger: str) -> None:
    logging.getLogger(logger).warning("cannot reach %s", "mqtt://user:hunter2@host:1883/x?token=abcdef")
    text = log.take()
    assert "mqtt://host:1883/x?" in text
    assert "hunter2" not in text
    assert "abcdef" not in text


WAYS = {
    "plain": SECRET,
    "percent-encoded": quote(SECRET, safe=""),
    "percent-encoded in lower case": quote(SECRET, safe="").lower(),
    "percent-encoded but for slashes": quote(SECRET),
    "as in a form": quote_plus(SECRET),
    "in a list": repr([SECRET]),
    "as bytes": repr(SECRET.encode()),
    "in JSON": json.dumps({"password": SECRET}),
    "in JSON with its letters": json.dumps({"password": SECRET}, ensure_ascii=False),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_known_secret_is_hidden_however_it_is_written(log: Log, way: str) -> None:
    logs.hide(SECRET)
    logger = logging.getLogger("some.library")
    logger.info(f"begins {WAYS[way]} ends")
    logger.info("begins %s ends", WAYS[way])
    try:
        raise OSError(f"begins {WAYS[way]} ends")
    except OSError:
        logger.exception("failed")
    text = log.take()
    assert text.count("…") + text.count("\\u2026") == 3
    assert "hun" not in text
    assert text.count("ends") == 4  # one in the traceback's own line of source


def test_an_argument_that_is_no_text_hides_its_secret_too(log: Log) -> None:
    logs.hide("hunter2")
    logging.getLogger("some.library").info("%s %r", {"password": "hunter2"}, ["hunter2"])
    assert "hunter2" not in log.take()


def test_of_two_secrets_the_longer_goes_first(json_log: Log) -> None:
    for secret in ("hunter", "hunter2023"):
        logs.hide(secret)
    logging.getLogger("touchline").info("hunter2023 hunter")
    assert json.loads(json_log.take())["message"] == "… …"


@pytest.mark.parametrize("secret", ["", "a", "no", "the"])
def test_a_secret_too_short_to_hide_does_not_blank_the_log(json_log: Log, secret: str) -> None:
    logs.hide(secret)
    logging.getLogger("touchline").info("the banner is not online, at mqtt://user:the@host")
    assert json.loads(json_log.take())["message"] == "the banner is not online, at mqtt://host"


def test_a_message_cannot_pass_for_another_record_nor_steer_the_terminal(text_log: Log) -> None:
    forged = "x\n19:00:00 INFO touchline: all is well\x1b[2J\r"
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("touchline").exception(forged)
    text = text_log.take()
    assert "\x1b" not in text
    assert "\r" not in text
    assert all(line.startswith("  ") for line in text.splitlines()[1:])


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


ANYTHING = st.text(st.characters()) | st.integers() | st.floats() | st.binary() | st.none() | st.just(Broken())


@given(message=ANYTHING, args=st.lists(ANYTHING, max_size=3), error=st.none() | st.text())
def test_every_line_of_json_parses_whatever_is_logged(message: Any, args: list[Any], error: str | None) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        log = Log(monkeypatch, "json")
        info = None if error is None else (ValueError, ValueError(error), None)
        logging.getLogger("some.library").warning(message, *args, exc_info=info)
        (line,) = log.take().splitlines()
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_process_shows_no_secret_whoever_says_it(form: str) -> None:
    script = f"""
import logging, warnings
from streamer import logs
logs.configure(logging.INFO, {form!r})
logs.hide("hunter2")
warnings.warn("the password hunter2 is old")
logging.getLogger("aiohttp").info("%d", "hunter2")
logging.getLogger("aiohttp").info("%s %s", "hunter2")
logging.getLogger("paho").info("é \\udc80 hunter2")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"LC_ALL": "C", "PATH": ""}
    )
    lines = done.stderr.splitlines()
    assert len([line for line in lines if not line.startswith("  ")]) >= 4
    assert "hunter2" not in done.stderr
    if form == "json":
        assert [json.loads(line)["logger"] for line in lines] == ["py.warnings", "aiohttp", "aiohttp", "paho"]
