"""WebRTC through the whole command: a publisher comes, falls silent, and another one comes."""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from aioice.ice import get_host_addresses
from webrtc_sender import Publisher

TOKEN = "a-secret"
Start = Callable[..., "subprocess.Popen[str]"]

pytestmark = pytest.mark.skipif(
    not get_host_addresses(use_ipv4=True, use_ipv6=True), reason="there is no network address but loopback"
)


def come(publisher: Publisher, url: str) -> None:
    """Publish as soon as that is possible: somebody listens, and nobody else sends."""
    until_s = time.monotonic() + 40
    while time.monotonic() < until_s:
        with suppress(OSError):
            if publisher.publish(url, TOKEN) == 201:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nobody takes a publisher at {url}")


def test_who_publishes_over_whip_is_watched_and_so_is_who_comes_after_a_fault(
    start: Start, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHLINE_TOKEN", TOKEN)
    url = f"http://127.0.0.1:{free_port}/main"
    process = start("live", f"whip://127.0.0.1:{free_port}/main", "--threshold", "0", "--stall", "3")
    assert process.stdout is not None
    assert process.stderr is not None
    words: list[dict[str, object]] = []
    complaints: list[str] = []
    readers = [
        threading.Thread(target=lambda: words.extend(json.loads(line) for line in process.stdout or ())),
        threading.Thread(target=lambda: complaints.extend(process.stderr or ())),
    ]
    for reader in readers:
        reader.start()

    def wait_for_words(epoch: int, clocks: tuple[str, ...] = ("rtcp", "arrival")) -> None:
        until_s = time.monotonic() + 40
        while not any(word["epoch"] == epoch and word["clock"] in clocks for word in words):
            assert time.monotonic() < until_s, complaints
            time.sleep(0.1)

    try:
        with Publisher() as publisher:
            come(publisher, url)
            wait_for_words(0, ("rtcp",))  # once the sender has reported
            publisher.set_silent()
            with Publisher() as other:
                come(other, url)
                wait_for_words(1)
    finally:
        process.terminate()
        process.wait(20)
        for reader in readers:
            reader.join()
    assert process.returncode == 130
    said = "".join(complaints)
    assert f"waiting for a sender at {url}" in said
    assert "nothing came within 3 s" in said
    assert TOKEN not in said
    assert {word["clock"] for word in words} <= {"rtcp", "arrival"}
