"""Command lines that make sense, and what is changed in them."""

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzzing.mutations import ODD_NUMBERS, ODD_TEXTS, mutated_bytes, mutated_json, mutated_text

_URLS = (
    *("match.ts", "match.ts", "match.ts", "file:match.ts", "./match.ts", "bundle/head.onnx", "none.ts", "-"),
    *("http://127.0.0.1:1/a/main.m3u8", "https://127.0.0.1:9/x.ts", "rtsp://user:secret@127.0.0.1:1/main"),
    *("rtmp://127.0.0.1:1/app/key", "rtmp://127.0.0.1:1/app/key?listen=1", "rtp://@239.1.2.3:5000", "features"),
    "tcp://127.0.0.1:1",
    *("tcp://127.0.0.1:1?listen=1", "udp://@239.1.2.3:5000?overrun_nonfatal=1&fifo_size=50000", "srt://:9000"),
    *("srt://127.0.0.1:9?mode=caller&latency=200000&passphrase=secretsecret", "whip://127.0.0.1:8889/main"),
    *("whep://127.0.0.1:1/x", "wheps://[::1]:9/x", "ftp://127.0.0.1:1/a.ts", "data:video/mp2t;base64,AAAA", "pipe:0"),
)
_SCHEMES = (
    *("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtmpt", "srt", "udp", "rtp", "tcp", "whip", "whep", "wheps"),
    *("ftp", "file", "pipe", "mqtt", "mqtts", "gopher", "tls", "HTTP", "h ttp", "", "1", "a" * 200, "ünï", "x-y.z+1"),
)
_HOSTS = (
    *("127.0.0.1", "[::1]", "localhost", "[::1", "::1", "999.999.999.999", "127.0.0.1.", "%31%32%37.0.0.1"),
    *("ä.example", "xn--", "a" * 300, "", "*", "127.1", "0x7f000001", "[fe80::1%lo]", "user:pass:word@127.0.0.1", "@"),
    *("a b", "[v1.x]"),
)
_COMMON: tuple[tuple[str, ...], ...] = (
    ("--stream", "main"),
    ("--threshold", "0.5"),
    ("--deadline", "5"),
    ("--deadline", "Goal=4.5"),
    ("--provisional", "0.4"),
    ("--no-provisional",),
    ("--clips", "clips"),
    ("--clip-pre", "8"),
    ("--clip-post", "4.5"),
    ("--mqtt", "mqtt://user:secret@127.0.0.1:1"),
    ("--mqtt", "mqtts://127.0.0.1"),
    ("--prefix", "touchline/test"),
    ("--broker",),
    ("--broker-port", "0"),
    ("--serve", "0"),
    ("--serve", "127.0.0.1:0"),
    ("--overlay", "overlay.toml"),
    ("--state", "state"),
    ("--scores",),
    ("--commands",),
    ("--mqtt-ca", "overlay.toml"),
    ("--out", "out.edl"),
    ("--out", "out.csv"),
    ("--log-format", "json"),
    ("--input-option", "rtsp_transport=tcp"),
    ("--input-option", "probesize=100000"),
    ("--input-option", "fflags=+genpts+discardcorrupt"),
    ("--json",),
    ("--quiet",),
)
_WORDS: dict[str, tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]] = {
    "live": (
        ("URL", "--bundle", "bundle"),
        (("--speed", "8"), ("--stall", "2"), ("--retries", "0"), *_COMMON),
    ),
    "replay": (
        ("URL", "--bundle", "bundle"),
        (
            *(("match.ts",), ("--out", "out.json"), ("--out", "out.jsonl"), ("--realtime",), ("--start", "0:01")),
            *(("--start", "1-00:00.5"), ("--end", "2-0:00:01"), ("--end", "40"), *_COMMON),
        ),
    ),
    "probe": (
        ("URL", "--bundle", "bundle"),
        (("--seconds", "3"), ("--json",), ("--input-option", "rtsp_transport=tcp")),
    ),
    "watch": (
        ("mqtt://user:secret@127.0.0.1:1", "--wait", "0.1"),
        (
            *(("--stream", "main"), ("--prefix", "a/b"), ("--final",), ("--until-stopped",), ("--json",)),
            *(("--wait", "3"), ("--summary", "Labels-v2.json")),
        ),
    ),
    "demo": (
        ("--sample", "match.ts", "--labels", "Labels-v2.json"),
        (("--speed", "8"), ("--bundle", "bundle")),
    ),
    "spot": (
        ("1_F.npy", "--bundle", "features", "--out", "results.json"),
        (
            *(("2_F.npy",), ("--threshold", "0.3"), ("--deadline", "5"), ("--rule", "local-max", "--radius", "3")),
            *(("--scores", "scores.npz"), ("--deadline", "Foul=9")),
        ),
    ),
    "evaluate": (
        ("results_spotting.json", "--labels", "Labels-v2.json"),
        (
            *(("--metric", "loose"), ("--metric", "at5"), ("--corrected",), ("--clock", "gameTime"), ("--json",)),
            *(("--deadlines",), ("--deadlines", "--said", "wall"), ("--half", "1"), ("--match", "x")),
        ),
    ),
    "tune": (
        ("bundle", "--data", "data"),
        (("--deadline", "5"), ("--measure", "test"), ("--no-deadline",), ("--precision", "0.5"), ("--rule", "greedy")),
    ),
    "embed": (("data", "--bundle", "bundle", "--out", "embedded"), (("match.ts",), ("data/1.mp4",))),
    "train": (
        ("demo", "--data", "data", "--out", "trained"),
        (("--epochs", "1"), ("--seed", "3"), ("--resume",), ("--steps", "2"), ("--look-ahead", "0,1,2,4")),
    ),
    "import": (
        ("calf", "weights.npz", "--out", "imported"),
        (("--features", "F"), ("--rate", "2"), ("--labels", "a", "b"), ("--window", "9"), ("--older",)),
    ),
    "export": (("trained.ckpt", "--data", "data", "--out", "exported"), (("--look-ahead", "1,2"), ("--cache", "c"))),
}
"""Command → what it needs, and what may be added; URL stands for any of _URLS."""


def _npy(rows: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.linspace(-3, 3, rows * 4, dtype=np.float32).reshape(rows, 4))
    return file.getvalue()


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, weight=np.zeros((4, 4), np.float32), bias=np.zeros(4, np.float32))
    return file.getvalue()


_ACTIONS: list[dict[str, Any]] = [
    {"gameTime": "1 - 00:03", "label": "Goal", "position": "3000", "team": "home", "visibility": "visible"},
    {"gameTime": "2 - 10:30", "label": "Foul", "position": "630000", "team": "away", "visibility": "not shown"},
]
_PREDICTIONS: list[dict[str, Any]] = [
    {"gameTime": "1 - 00:04", "label": "Goal", "position": "4000", "half": "1", "confidence": "0.750000"},
    {"gameTime": "2 - 10:31", "label": "Foul", "position": "631000", "half": "2", "confidence": "0.5"},
]
_WORD = {
    **{"id": "a1", "stream": "main", "half": 1, "epoch": 0, "label": "Goal", "media_time": 3.5, "confidence": 0.75},
    **{"emitted_at": 7.0, "state": "confirmed", "revision": 1, "latency": {"compute": 0.1}, "flags": []},
    "said_utc": "2025-05-31T19:00:00.123456Z",
}
FILES: dict[str, bytes] = {
    "Labels-v2.json": json.dumps({"UrlLocal": "x/", "annotations": _ACTIONS}).encode(),
    "results_spotting.json": json.dumps({"UrlLocal": "x/", "predictions": _PREDICTIONS}).encode(),
    "words.jsonl": (json.dumps(_WORD) + "\n" + json.dumps(_WORD | {"id": "b2"}) + "\n").encode(),
    "1_F.npy": _npy(12),
    "2_F.npy": _npy(9),
    "weights.npz": _npz(),
    "overlay.toml": (Path(__file__).parents[2] / "samples" / "overlay.toml").read_bytes(),
}
READS = {
    "watch": ("Labels-v2.json",),
    "demo": ("Labels-v2.json",),
    "spot": ("1_F.npy", "1_F.npy", "2_F.npy", "features/manifest.json", "features/head.onnx"),
    "evaluate": ("Labels-v2.json", "results_spotting.json", "words.jsonl"),
    "live": ("bundle/manifest.json", "match.ts", "overlay.toml"),
    "import": ("weights.npz",),
}
"""Command → the files whose content may be changed."""


def changed_file(name: str, data: bytes, rng: random.Random) -> bytes:
    """Return the content of a file with changes."""
    if name.endswith(".json"):
        return mutated_json(json.loads(data), rng)
    if name.endswith(".jsonl") and rng.random() < 0.6:
        lines = [mutated_json(json.loads(line), rng) for line in data.splitlines()]
        return b"\n".join(lines)
    if name.endswith(".npy") and rng.random() < 0.6:
        header = mutated_text(data[10:128].decode(), rng).encode("utf-8", "replace")
        return data[:10] + header[:118].ljust(118) + data[128:]
    return mutated_bytes(data, rng)


def whole(command: str, rng: random.Random) -> list[str]:
    """Return a command line that makes sense, or nearly."""
    needed, more = _WORDS[command]
    arguments = [command, *needed]
    for _ in range(rng.randrange(4)):
        arguments += rng.choice(more)
    if command == "evaluate" and "--deadlines" in arguments:
        arguments[1] = "words.jsonl"
    return [rng.choice(_URLS) if argument == "URL" else argument for argument in arguments]


def changed(arguments: Sequence[str], rng: random.Random) -> list[str]:
    """Return a command line with one to three odd arguments; the command itself stays."""
    command, *rest = arguments
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(rest)) if rest else 0
        change = rng.randrange(10)
        if change == 0 and rest:
            del rest[at]
        elif change == 1:
            rest.insert(at, rng.choice((*ODD_TEXTS, *ODD_NUMBERS, "--help", "--unknown", "--", "-h", "--d", "--clip")))
        elif change == 2 and rest:
            rest.insert(at, rest[at])
        elif change == 3:
            rng.shuffle(rest)
        elif rest:
            rest[at] = _odd(rest[at], rng)
    if rng.random() < 0.02:
        rest *= 200
    return [command, *(_possible(argument) for argument in rest)]


def _odd(argument: str, rng: random.Random) -> str:
    if "://" in argument and rng.random() < 0.7:
        return _odd_url(argument, rng)
    if argument[:1].isdigit() and rng.random() < 0.7:
        return rng.choice(ODD_NUMBERS)
    label, equals, value = argument.partition("=")
    if equals and rng.random() < 0.6:
        number, text = rng.choice(ODD_NUMBERS), rng.choice(ODD_TEXTS)
        return rng.choice((f"{label}={number}", f"{text}={value}", f"{value}={label}"))
    return rng.choice(ODD_TEXTS) if rng.random() < 0.15 else mutated_text(argument, rng, 2)


def _odd_url(url: str, rng: random.Random) -> str:
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    change = rng.randrange(6)
    if change == 0:
        return f"{rng.choice(_SCHEMES)}://{rest}"
    if change == 1:
        return f"{scheme}://{rest.replace(host, rng.choice(_HOSTS) + ':1')}"
    if change == 2:
        return f"{scheme}://127.0.0.1:{rng.choice(ODD_NUMBERS)}/x"
    if change == 3:
        return f"{scheme}://{mutated_text('user:pa%2Fss', rng, 1)}@{rest}"
    if change == 4:
        return f"{url}?{mutated_text('listen=1&mode=caller&latency=100000', rng)}"
    return f"{scheme}{rng.choice((':', ':/', ':///', '//', '://'))}{mutated_text(rest, rng, 2)}"


def _possible(argument: str) -> str:
    """Return an argument as a system can hand it to a program."""
    raw = argument.replace("\0", "").encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "surrogateescape")


def environment(rng: random.Random) -> dict[str, str]:
    """Return odd values of the variables that touchline or its libraries read."""
    names = (
        *("TOUCHLINE_TOKEN", "TOUCHLINE_PAGES_TOKEN", "TOUCHLINE_MQTT_USER", "TOUCHLINE_MQTT_PASSWORD"),
        *("TOUCHLINE_MQTT_PASSWORD_FILE", "TERM", "NO_COLOR", "FORCE_COLOR", "TZ", "SSL_CERT_FILE", "LC_ALL"),
    )
    value = rng.choice((*ODD_TEXTS, *ODD_NUMBERS))
    return {name: _possible(value) for name in rng.sample(names, rng.randint(1, 2))}
