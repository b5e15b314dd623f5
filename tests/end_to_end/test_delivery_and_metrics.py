import json
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Touchline

Start = Callable[..., "subprocess.Popen[str]"]


def read(url: str, deadline_s: float = 30.0) -> str:
    """Return a page, waiting for its server to come up."""
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                text: str = answer.read().decode()
                return text
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture
def metrics_text(start: Start, sample: Path, free_port: int) -> str:
    """What /metrics shows after some spots were said to a broker."""
    process = start(
        *("live", sample, "--speed", "10", "--threshold", "0.02", "--broker", "--broker-port", "0"),
        *("--deadline", "3.2", "--provisional", "0.3", "--serve", free_port),
    )
    assert process.stdout is not None
    confirmed = 0
    while confirmed < 20:
        confirmed += json.loads(process.stdout.readline())["state"] == "confirmed"
    base = f"http://127.0.0.1:{free_port}"
    assert read(f"{base}/healthz") == "alive\n"
    assert read(f"{base}/readyz") == "ready\n"
    return read(f"{base}/metrics")


def values(text: str) -> dict[str, float]:
    rows = re.findall(r"^([a-zA-Z_:]+(?:\{.*\})?) (\S+)$", text, re.M)
    return {name: float(value) for name, value in rows}


def test_the_metrics_tell_what_happens(metrics_text: str) -> None:
    shown = values(metrics_text)
    assert shown["touchline_stream_up"] == 1
    assert shown["touchline_broker_up"] == 1
    assert shown["touchline_seconds_processed_total"] > 5
    assert shown["touchline_frames_decoded_total"] > 100
    assert shown["touchline_real_time_factor"] > 0.5
    assert abs(shown["touchline_last_frame_timestamp_seconds"] - time.time()) < 60
    assert 'touchline_seconds_dropped_total{cause="stale"}' in shown
    assert 'touchline_queue_depth{queue="seconds"}' in shown
    assert sum(v for k, v in shown.items() if k.startswith("touchline_spots_total{")) >= 12
    for name in ("spots_provisional", "decisions_forced"):
        assert sum(v for k, v in shown.items() if k.startswith(f"touchline_{name}_total{{")) > 0
    assert "touchline_deadline_missed_total" in shown
    for part in ("grid", "look_ahead", "hold", "compute", "publish"):
        assert shown[f'touchline_spot_latency_seconds_count{{part="{part}"}}'] > 0
    for stage in ("visual", "audio", "head", "second", "publish"):
        assert shown[f'touchline_stage_duration_seconds_count{{stage="{stage}"}}'] > 0


def test_every_metric_has_our_prefix_or_the_process_s_and_no_unbounded_label(metrics_text: str) -> None:
    names = set(re.findall(r"^([a-zA-Z_:]+)", metrics_text, re.M))
    assert all(name.startswith(("touchline_", "process_")) for name in names)
    labels = set(re.findall(r"[{,]([a-z_]+)=", metrics_text))
    known = {"stage", "queue", "cause", "flag", "label", "part", "state", "command", "result", "le"}
    assert labels <= known | {"version", "bundle", "digest"}


def test_promtool_finds_nothing_to_mend(metrics_text: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=metrics_text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_subscriber_gets_every_spot_that_is_printed(start: Start, short_sample: Path, free_port: int) -> None:
    watcher = start("watch", f"mqtt://127.0.0.1:{free_port}", "--until-stopped", "--json")
    streamer = start(
        *("live", short_sample, "--speed", "4", "--threshold", "0.02", "--broker", "--broker-port", free_port)
    )
    said, complaints = streamer.communicate(timeout=90)
    assert streamer.returncode == 0, complaints
    heard, complaints = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, complaints
    received, printed = ([json.loads(line) for line in lines.splitlines()] for lines in (heard, said))
    assert {(one["id"], one["revision"]) for one in received} <= {(one["id"], one["revision"]) for one in printed}
    final = [[one["id"] for one in words if one["state"] != "provisional"] for words in (received, printed)]
    assert final[0] == final[1], "in the same order"
    assert len(final[0]) > 5


def test_the_live_path_runs_where_torch_cannot_be_imported(short_sample: Path, root: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, onnx=None)\n"
        "from streamer.cli import main\n"
        f"sys.exit(main(['replay', {str(short_sample)!r}, '--threshold', '0.05']))"
    )
    guarded = f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}\n"
    script = short_sample.with_name("without_torch.py")
    script.write_text(guarded)
    done = subprocess.run([sys.executable, script], cwd=root, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")


def test_the_demo_ends_with_its_tables(touchline: Touchline) -> None:
    done = touchline("demo", "--speed", "12", timeout=110)
    assert done.code == 0, done.err
    for wanted in ("Goal", "look-ahead", "hold", "grid", "compute", "publish", "p50", "p95", "the speed of life"):
        assert wanted in done.out
