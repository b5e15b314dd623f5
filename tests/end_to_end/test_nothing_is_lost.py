"""A live stream, a broker that goes and comes, a streamer that is killed: a subscriber still has every word.

The subscriber is paho with a persistent session, which knows nothing of us; what was said is what the streamers' own
standard output shows. `pytest -rP` shows the figures.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from brokers import Mosquitto, mosquitto
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from servers import Server, free_port, needs

Word = dict[str, Any]


class Subscriber:
    """Remembers every word that arrives, over any number of connections."""

    def __init__(self, port: int) -> None:
        self.words: list[Word] = []
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "tally", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("touchline/main/spots", qos=1)
        self._client.on_message = lambda _client, _data, message: self._take(message.payload)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port, clean_start=False, properties=session)
        self._client.loop_start()

    def _take(self, payload: bytes | bytearray) -> None:
        self.words.append(json.loads(payload)["data"])

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Streamers:
    """One streamer after the other on the same stream, and what each of them has said."""

    command: list[str]
    folder: Path
    outputs: list[Path] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.outputs.append(self.folder / f"said-{len(self.outputs)}.jsonl")
        log = self.outputs[-1].with_suffix(".log")
        with self.outputs[-1].open("wb") as out, log.open("wb") as err:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=err, start_new_session=True)

    def end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(60)
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, signal.SIGKILL)  # its reading process too, as when a machine dies
        self.process = None

    def said(self, run: int = -1) -> list[Word]:
        """Return the final words of a run, as far as they are whole lines."""
        words = []
        for line in self.outputs[run].read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                words.append(json.loads(line))
        return [word for word in words if word["state"] != "provisional"]

    def log(self) -> str:
        return "\n".join(path.with_suffix(".log").read_text() for path in self.outputs)


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[Streamers]:
    streamers = Streamers(command, folder)
    try:
        yield streamers
    finally:
        if streamers.process is not None:
            streamers.end(signal.SIGKILL)


def until(done: Callable[[], bool], what: Callable[[], str], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


def fast_sender(media: Path, folder: Path) -> Server:
    """Return who sends a file by UDP, again and again on one clock, at three times the speed of life."""
    needs("ffmpeg")
    url = f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    read = ["ffmpeg", "-v", "error", "-nostdin", "-readrate", "3", "-stream_loop", "-1", "-i", str(media), "-c", "copy"]
    return Server(url, [*read, "-f", "mpegts", f"{url}?pkt_size=1316"], log=folder / "send.log")


@pytest.mark.timeout(240)
def test_nothing_is_lost_whoever_dies(sample: Path, root: Path, tmp_path: Path) -> None:
    with mosquitto(tmp_path, persistent=True) as broker, fast_sender(sample, tmp_path) as source:
        assert isinstance(broker, Mosquitto)
        options = ["--mqtt", broker.url, "--state", str(tmp_path / "state"), "--threshold", "0.01", "--quiet"]
        live = [sys.executable, "-m", "streamer", "live", source.url, "--bundle", str(root / "bundles/demo")]
        with running([*live, *options], tmp_path) as streamers:
            subscriber = Subscriber(broker.port)
            try:
                _tell_the_story(streamers, broker, subscriber)
            finally:
                subscriber.close()
            _check(streamers, subscriber)


def _tell_the_story(streamers: Streamers, broker: Mosquitto, subscriber: Subscriber) -> None:
    def say(more: int) -> None:
        until(lambda: len(streamers.said()) >= more, streamers.log)

    streamers.start()
    say(3)
    broker.stop()  # in good order, as for an update
    time.sleep(1)
    streamers.end(signal.SIGKILL)  # while words wait for the broker
    streamers.start()  # and there is none
    say(2)
    broker.start()
    say(5)
    streamers.end(signal.SIGKILL)
    streamers.start()
    say(3)
    broker.freeze()
    say(5)
    broker.thaw()
    say(7)
    streamers.end(signal.SIGTERM)
    everything = {word["id"] for run in range(len(streamers.outputs)) for word in streamers.said(run)}
    until(lambda: everything <= {word["id"] for word in subscriber.words}, streamers.log)


def _check(streamers: Streamers, subscriber: Subscriber) -> None:
    runs = [streamers.said(run) for run in range(3)]
    said = [word["id"] for run in runs for word in run]
    received = [word["id"] for word in subscriber.words]
    print(f"\n{len(said)} said in three runs, {len(received)} received, {len(received) - len(set(received))} twice")
    assert len(said) == len(set(said)), "no run says an id that another one has said"
    assert set(said) <= set(received)
    finals = {(word["id"], word["revision"], word["state"]) for word in subscriber.words}
    assert len(finals) == len(set(received)), "each spot has one final word, however often it came"
    order = list(dict.fromkeys(received))
    assert [one for one in order if one in set(said)] == said, "in the order in which they were said"
    own = [[word for word in run if "restarted" not in word["flags"]] for run in runs]
    for before, after in pairwise(own):
        assert max(word["epoch"] for word in before) < min(word["epoch"] for word in after)
        assert max(word["media_time"] for word in before) <= min(word["media_time"] for word in after)
