"""What a run says on all its topics, to a real broker, fits the published schemas; and it does as it is told."""

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from brokers import mosquitto
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from paho.mqtt.enums import CallbackAPIVersion

Start = Callable[..., "subprocess.Popen[str]"]

SCHEMAS = {
    "spots": "spot",
    "spots/provisional": "spot",
    "spots/by-label": "spot",
    "status": "status",
    "clock": "clock",
    "scores": "scores",
    "stats": "stats",
    "answers": "answer",
}


class Listener:
    """Everything below the stream's topics."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.client = paho.Client(CallbackAPIVersion.VERSION2, "listener")
        self.client.on_message = lambda _client, _data, message: self._take(message)
        self.client.connect("127.0.0.1", port)
        self.client.subscribe("touchline/main/#", qos=1)
        self.client.loop_start()

    def _take(self, message: paho.MQTTMessage) -> None:
        kind = message.topic.removeprefix("touchline/main/")
        if not kind.startswith("cmd/"):
            kind = "spots/by-label" if kind.startswith("spots/by-label/") else kind
            self.heard[kind].append(json.loads(message.payload))

    def order(self, command: str, **payload: object) -> dict[str, Any]:
        """Give an order; return the answer."""
        before = len(self.heard["answers"])
        self.client.publish(f"touchline/main/cmd/{command}", json.dumps(payload), qos=1)
        self.until(lambda: len(self.heard["answers"]) > before)
        answer: dict[str, Any] = self.heard["answers"][-1]["data"]
        return answer

    def until(self, done: Callable[[], bool], limit_s: float = 40.0) -> None:
        deadline = time.monotonic() + limit_s
        while not done():
            assert time.monotonic() < deadline, {kind: len(said) for kind, said in self.heard.items()}
            time.sleep(0.05)


def test_every_topic_carries_what_its_schema_says_and_commands_are_obeyed(
    start: Start, sample: Path, root: Path, tmp_path: Path
) -> None:
    with mosquitto(tmp_path) as broker:
        listener = Listener(int(broker.url.rpartition(":")[2]))
        options = ["--mqtt", broker.url, "--state", tmp_path / "state", "--scores", "--commands", "--json"]
        process = start("live", sample, "--speed", "4", "--threshold", "0.02", "--provisional", "0.1", *options)
        listener.until(lambda: all(listener.heard[kind] for kind in SCHEMAS if kind != "answers"))
        assert listener.order("threshold", label="Rain", threshold=0.5)["ok"] is False
        assert listener.order("mute", label="Goal", request_id="m1")["request_id"] == "m1"
        assert listener.order("pause")["paused"] is True
        time.sleep(1)  # for what was on its way
        said = len(listener.heard["spots"])
        open_ids = {word["data"]["id"] for word in listener.heard["spots/provisional"]}
        time.sleep(2)
        process.terminate()
        process.communicate(timeout=30)
        listener.until(lambda: listener.heard["status"][-1]["data"]["state"] == "stopped")
        listener.client.disconnect()
        listener.client.loop_stop()
    after = {word["data"]["id"] for word in listener.heard["spots"][said:]}
    assert after <= open_ids, "paused: only what was spoken of before gets its final word"
    stopped = listener.heard["status"][-1]["data"]
    assert (stopped["paused"], stopped["muted"], stopped["reason"]) == (True, ["Goal"], "interrupted")
    assert sorted(e["id"] for e in listener.heard["spots"]) == sorted(e["id"] for e in listener.heard["spots/by-label"])
    for kind, schema in SCHEMAS.items():
        validator = Draft202012Validator(json.loads((root / "docs" / "schemas" / f"{schema}.v1.json").read_text()))
        for message in listener.heard[kind]:
            validator.validate(message["data"])


def test_a_third_interrupt_ends_it_at_once_though_the_broker_answers_nothing(
    start: Start, sample: Path, tmp_path: Path
) -> None:
    with mosquitto(tmp_path) as broker:
        options = ["--mqtt", broker.url, "--state", tmp_path / "state", "--threshold", "0.02", "--json"]
        process = start("live", sample, "--speed", "4", *options)
        assert process.stdout is not None
        process.stdout.readline()
        broker.freeze()
        time.sleep(2)  # so that words wait
        began_s = time.monotonic()
        for _ in range(3):
            process.terminate()
            time.sleep(0.5)
        assert process.wait(5) == 130
        assert time.monotonic() - began_s < 6
        assert process.stderr is not None
        assert "once more to end at once" in process.stderr.read()
        broker.thaw()
