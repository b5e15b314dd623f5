"""What is promised is kept: final words by their deadline, whatever the stream and the machine do meanwhile."""

import asyncio
import json
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import Touchline
from fakes import RememberingScreen

import streamer.pipeline
from engines.backends.base import Array, Engine
from engines.bundle import Bundle, open_bundle, read_manifest, write_manifest
from streamer.cloudevents import data_of
from streamer.config import IngestConfig, RunConfig
from streamer.mqtt import connect, parse_broker_url
from streamer.pipeline import Pipeline

Start = Callable[..., "subprocess.Popen[str]"]

FINAL = ("confirmed", "retracted")
SAMPLE_S = 125


def delay_s(word: dict[str, Any]) -> float:
    delay: float = word["emitted_at"] - word["media_time"]
    return delay


def check_life_cycles(words: list[dict[str, Any]]) -> None:
    """Under one id: revisions from 1, provisional words, then one final word."""
    by_id = defaultdict(list)
    for word in words:
        by_id[word["id"]].append(word)
    for said in by_id.values():
        assert [word["revision"] for word in said] == list(range(1, len(said) + 1))
        assert all(word["state"] == "provisional" for word in said[:-1])
        assert said[-1]["state"] in FINAL
        assert len({word["label"] for word in said}) == 1


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle, waiting longer: 4 s of look-ahead and a radius of 3 s, for deadlines to cut short."""
    path = tmp_path_factory.mktemp("patient") / "bundle"
    shutil.copytree(Path(__file__).parents[2] / "bundles" / "demo", path)
    manifest, _ = read_manifest(path)
    write_manifest(path, manifest.with_decision(look_ahead_s=4.0, radius_s=3.0, deadline_s=None))
    return path


# On replay


def test_every_final_word_keeps_its_deadline_and_every_word_is_in_the_file(
    touchline: Touchline, short_sample: Path, patient: Path, tmp_path: Path
) -> None:
    out = tmp_path / "words.jsonl"
    options = ("--threshold", "0.05", "--provisional", "0.3", "--deadline", "6", "--deadline", "Foul=7.5")
    done = touchline("replay", short_sample, "--bundle", patient, *options, "--out", out)
    assert done.code == 0, done.err
    final = [word for word in done.spots if word["state"] in FINAL]
    assert all(delay_s(word) <= (7.5 if word["label"] == "Foul" else 6) for word in final)
    assert max(delay_s(word) for word in final if word["label"] == "Foul") > 6
    assert any("forced" in word["flags"] for word in final)
    assert {word["state"] for word in done.spots} >= {"provisional", "confirmed"}
    check_life_cycles(done.spots)
    assert [json.loads(line) for line in out.read_text().splitlines()] == done.spots


def test_the_promise_and_the_words_are_logged(touchline: Touchline, short_sample: Path, patient: Path) -> None:
    options = ("--provisional", "0.3", "--deadline", "6", "--deadline", "Foul=7.5")
    done = touchline("replay", short_sample, "--bundle", patient, *options)
    assert "at most 7.50 s after its action (look-ahead 4.00, hold 3.00, grid 0.50)" in done.err
    assert "the soonest label at most 6.00 s; deadline 6 to 7.5 s" in done.err
    count = defaultdict(int, {state: sum(w["state"] == state for w in done.spots) for state in (*FINAL, "provisional")})
    forced = sum("forced" in word["flags"] for word in done.spots)
    assert (
        f"{count['confirmed']} spots confirmed, {count['retracted']} retracted, {count['provisional']} provisional "
        f"words; {forced} decisions forced by a deadline, 0 deadlines missed"
    ) in done.err


def test_provisional_words_can_be_silenced(touchline: Touchline, short_sample: Path, patient: Path) -> None:
    loud = touchline("replay", short_sample, "--bundle", patient, "--deadline", "7", "--provisional", "0.3")
    silent = touchline("replay", short_sample, "--bundle", patient, "--deadline", "7", "--no-provisional")
    assert {word["state"] for word in silent.spots} == {"confirmed"}
    keys = ("label", "media_time", "confidence", "emitted_at", "flags")
    assert [[word[key] for key in keys] for word in loud.spots if word["state"] == "confirmed"] == [
        [word[key] for key in keys] for word in silent.spots
    ]


def test_an_interrupt_gives_what_is_pending_its_final_word(start: Start, sample: Path) -> None:
    process = start("live", sample, "--speed", "4", "--threshold", "0.02", "--provisional", "0.05")
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(12)]
    process.terminate()
    rest, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    check_life_cycles([json.loads(line) for line in [*lines, *rest.splitlines()]])


def test_a_folder_to_write_words_into_is_refused_before_the_work(
    touchline: Touchline, sample: Path, tmp_path: Path
) -> None:
    done = touchline("replay", sample, "--out", tmp_path, timeout=20)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "give a file to write" in done.err


@pytest.mark.parametrize("command", ["live", "replay"])
def test_a_deadline_that_cannot_be_kept_is_one_sentence_at_once(
    touchline: Touchline, sample: Path, command: str
) -> None:
    started = time.monotonic()
    done = touchline(command, sample, "--deadline", "8", "--deadline", "Goal=1")
    assert done.code == 1
    assert "the smallest possible for Goal is 1.1 s" in done.complaint
    assert time.monotonic() - started < 10


def test_a_deadline_too_small_for_a_look_ahead_takes_a_smaller_one(touchline: Touchline, short_sample: Path) -> None:
    done = touchline("replay", short_sample, "--deadline", "2")
    assert done.code == 0
    assert "at most 2.00 s after its action (look-ahead 0.00" in done.err
    assert done.spots
    assert all(delay_s(word) <= 2 for word in done.spots if word["state"] in FINAL)


def test_a_label_that_is_not_there_is_one_sentence(touchline: Touchline, sample: Path) -> None:
    done = touchline("live", sample, "--deadline", "Gaol=8")
    assert (done.code, "no label 'Gaol'; it has Penalty, " in done.complaint) == (2, True)


@pytest.mark.parametrize("given", ["soon", "0", "-3", "nan", "inf", "=5", "Goal=", "601"])
def test_a_deadline_that_is_none_is_wrong_usage(touchline: Touchline, given: str) -> None:
    done = touchline("live", "x", f"--deadline={given}")
    assert done.code == 2
    assert "usage:" in done.err


# On a broker


async def test_provisional_words_come_on_a_topic_of_their_own(start: Start, short_sample: Path, free_port: int) -> None:
    heard: dict[str, list[dict[str, Any]]] = defaultdict(list)

    async def listen() -> None:
        async with connect(parse_broker_url(f"mqtt://127.0.0.1:{free_port}")) as client:
            await client.subscribe(["touchline/main/#"])
            async for message in client.messages():
                content = data_of(message.payload)
                heard[message.topic.removeprefix("touchline/main/")].append(content)
                if content.get("state") == "stopped":
                    return

    process = start(
        *("live", short_sample, "--speed", "4", "--broker", "--broker-port", free_port),
        *("--deadline", "7", "--provisional", "0.3", "--threshold", "0.1"),
    )
    async with asyncio.timeout(60):
        while True:
            with suppress(Exception):
                await listen()
                break
            await asyncio.sleep(0.1)
    said = [json.loads(line) for line in process.communicate(timeout=30)[0].splitlines()]
    final = [word for word in said if word["state"] in FINAL]
    assert heard["spots"] == final
    assert len(final) > 5
    provisional = [word for word in said if word["state"] == "provisional"]
    assert heard["spots/provisional"] == provisional[-len(heard["spots/provisional"]) :]
    assert len(heard["spots/provisional"]) > 5
    stopped = heard["status"][-1]["statistics"]
    assert stopped["spots"] + stopped["spots_retracted"] == len(final)
    assert stopped["provisional_words"] == len(provisional)


# When the stream falls silent


@contextmanager
def a_broadcast_that_stalls(sample: Path, after_s: int, start_s: int = 6) -> Iterator[tuple[str, Callable[[], float]]]:
    """Serve the sample by HTTP at the speed of life, then keep the connection and say nothing more.

    Gives its URL, and what tells the wall clock of its media time 0. The first seconds come at once, as from a server
    that lets a player start at once; then it waits until they are over.
    """
    data = sample.read_bytes()
    per_s = len(data) / SAMPLE_S
    began: list[float] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            began.append(time.time())
            sent = 0
            while sent < after_s * per_s and not over.is_set():
                end = round(max(start_s, min(time.time() - began[0], after_s)) * per_s)
                self.wfile.write(data[sent:end])
                sent = end
                time.sleep(0.05)
            over.wait()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", lambda: began[0]
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_is_pending_comes_out_by_the_wall_clock_while_the_stream_is_silent(
    start: Start, sample: Path, patient: Path
) -> None:
    silent_s, deadline_s = 12, 6
    with a_broadcast_that_stalls(sample, silent_s) as (url, began):
        options = ("--bundle", patient, "--threshold", "0.05", "--provisional", "0.3", "--deadline", deadline_s)
        process = start("live", url, *options, "--retries", "0")
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nothing came within 10 s" in err
    words = [json.loads(line) for line in out.splitlines()]
    check_life_cycles(words)
    final = [word for word in words if word["state"] in FINAL]
    assert all(delay_s(word) <= deadline_s for word in final)
    in_silence = [word for word in final if word["emitted_at"] > silent_s]
    assert len(in_silence) >= 2
    for word in in_silence:
        said_s = datetime.fromisoformat(word["said_utc"]).timestamp() - began()
        assert said_s < silent_s + 9.5, "said before the stream was given up"
        assert said_s - word["media_time"] < deadline_s + 3


# When the machine is too slow


class SlowEngine:
    """An engine on a machine that is too slow."""

    def __init__(self, engine: Engine, takes_s: float) -> None:
        self.inputs, self.outputs, self.metadata = engine.inputs, engine.outputs, engine.metadata
        self._run, self._takes_s = engine.run, takes_s

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(self._takes_s)
        return self._run(feeds)


async def test_a_machine_that_is_too_slow_sheds_seconds_and_keeps_the_deadline(
    short_sample: Path, patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speed, takes_s, deadline_s = 2.0, 0.8, 6.0

    def open_slow(path: Path) -> Bundle:
        bundle = open_bundle(path)
        slow = {name: SlowEngine(engine, takes_s / 2) for name, engine in bundle.front_ends.items()}
        return replace(bundle, front_ends=slow)

    monkeypatch.setattr(streamer.pipeline, "open_bundle", open_slow)
    ingest = IngestConfig((str(short_sample),), live=True, speed=speed)
    every = {"threshold": 0.05, "provisional_threshold": 0.3, "deadlines_s": {"*": deadline_s}}
    screen = RememberingScreen()
    pipeline = Pipeline(RunConfig(patient, "main", ingest, **every), screen)  # type: ignore[arg-type]
    started = time.monotonic()
    await pipeline.run()
    progress = pipeline.progress
    took_s = time.monotonic() - started
    assert took_s < screen.media_s / speed + 12, "nothing falls behind"
    assert progress.shed > 5
    assert progress.seconds + progress.shed == screen.media_s
    shed = pipeline.metrics.registry.get_sample_value("touchline_seconds_dropped_total", {"cause": "stale"})
    assert shed == progress.shed
    final = [word for word in screen.words if word.state in FINAL]
    assert len(final) > 5
    assert all(word.delay_s <= deadline_s for word in final)
    assert all("gap" in word.flags for word in final if word.media_time > 15)
    waited_s = sorted(word.latency["compute"] for word in final)
    assert waited_s[len(waited_s) // 2] < 1.5, "what is due does not wait for the backlog"
    check_life_cycles([{"id": w.id, "revision": w.revision, "state": w.state, "label": w.label} for w in screen.words])
