"""How fast source and sampler read a broadcast, against `ffmpeg -f null -` on the same file, in one run.

    python benchmarks/decode_throughput.py [--runs 5] [--seconds 20] [--bundle bundles/demo] [--clips FOLDER]

The clips are made first: H.264 of 1080p25 at 8 Mbit/s and 720p25 at 5 Mbit/s, a moving test picture under noise, two
B-frames, a key frame every 50, with AAC. The source decodes ahead in a thread, as a replay does; the sampler converts
the pictures that the bundle wants; no engine runs. FFmpeg decodes picture and sound and throws them away. Both have as
many decoder threads, two and one, and take turns, so that a noisy machine disturbs both. FFmpeg's time holds its
start-up, the source's holds its opening; Python's own start-up is in neither.

The floor: the share, which is FFmpeg's time by ours, is 0.9 or more in the median for every row. On a machine that has
other work, the share of CPU time says more.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av

from engines.bundle import read_manifest
from streamer.ingest.connection import ahead
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import PictureSpec
from streamer.sources.libav import LibavSource

CLIPS = {"1080p25": (1920, 1080, 8_000_000), "720p25": (1280, 720, 5_000_000)}
AHEAD_FRAMES = 64

Run = Callable[[Path, int], tuple[float, float]]
"""A file and a number of threads to seconds, of wall clock and of CPU."""


def generated(*steps: tuple[str, str]) -> Iterator[Any]:
    """Yield what a chain of FFmpeg's filters makes up."""
    graph = av.filter.Graph()
    chain = [graph.add(name, arguments or None) for name, arguments in steps]
    graph.link_nodes(*chain).configure()
    while True:
        try:
            yield graph.pull()
        except EOFError:
            return


def make_clip(path: Path, width: int, height: int, bit_rate: int, seconds: int) -> None:
    """Write a clip in the manner of a broadcast."""
    picture = (
        ("testsrc2", f"size={width}x{height}:rate=25:duration={seconds}"),
        ("noise", "alls=16:allf=t"),
        ("format", "yuv420p"),
        ("buffersink", ""),
    )
    sound = (
        ("anoisesrc", f"sample_rate=48000:duration={seconds}:amplitude=0.2"),
        ("aformat", "sample_fmts=fltp:channel_layouts=stereo"),
        ("asetnsamples", "1024"),
        ("abuffersink", ""),
    )
    with av.open(str(path), "w", format="mpegts") as out:
        options = {"preset": "veryfast", "bf": "2", "g": "50"}
        video = out.add_stream("libx264", rate=25, options=options)
        video.width, video.height, video.pix_fmt, video.bit_rate = width, height, "yuv420p", bit_rate
        audio = out.add_stream("aac", rate=48_000)
        audio.layout = "stereo"
        heard = generated(*sound)
        for frame in generated(*picture):
            out.mux(video.encode(frame))
            for _ in range(2):  # a picture is shorter than two blocks of sound
                if (block := next(heard, None)) is not None:
                    out.mux(audio.encode(block))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def ours(spec: PictureSpec) -> Run:
    """Return the source and the sampler, read as a replay does."""

    def run(path: Path, threads: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        source = LibavSource(str(path), threads=threads)
        for _ in seconds_of(ahead(source.frames(), AHEAD_FRAMES), Sampler(spec)):
            pass
        source.close()
        return time.perf_counter() - wall, time.process_time() - cpu

    return run


def program(ffmpeg: str) -> Run:
    """Return an FFmpeg program that only decodes."""

    def cpu_s() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def run(path: Path, threads: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), cpu_s()
        command = [ffmpeg, "-v", "error", "-nostdin", "-threads", str(threads), "-i", str(path), "-f", "null", "-"]
        subprocess.run(command, check=True)
        return time.perf_counter() - wall, cpu_s() - cpu

    return run


def programs() -> dict[str, Run]:
    """Return the FFmpeg programs that are here: the system's, and the one that imageio_ffmpeg brings."""
    found = {}
    if (system := shutil.which("ffmpeg")) is not None:
        found["ffmpeg"] = program(system)
    if find_spec("imageio_ffmpeg") is not None:
        found["imageio_ffmpeg"] = program(import_module("imageio_ffmpeg").get_ffmpeg_exe())
    return found


def compare(path: Path, threads: int, runs: int, run_ours: Run, others: dict[str, Run]) -> None:
    """Print a row for each program: how fast both are, and the share."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", *others)}
    for _ in range(runs):
        for name, run in {"ours": run_ours, **others}.items():
            times[name].append(run(path, threads))
    with av.open(str(path)) as clip:
        media_s = (clip.duration or 0) / av.time_base
    for name in others:
        walls, cpus = ([b[k] / a[k] for a, b in zip(times["ours"], times[name], strict=True)] for k in (0, 1))
        speed, speed_of_other = (media_s / statistics.median(w for w, _ in times[n]) for n in ("ours", name))
        print(
            f"{path.stem:9}{threads:2} threads: {speed:6.1f} x real time, {name} {speed_of_other:6.1f} x, "
            f"share {statistics.median(walls):.2f} ({min(walls):.2f} to {max(walls):.2f}), "
            f"of CPU time {statistics.median(cpus):.2f} ({min(cpus):.2f} to {max(cpus):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--bundle", type=Path, default=Path("bundles/demo"))
    parser.add_argument("--clips", type=Path, help="keep the clips here, and take those that are here already")
    args = parser.parse_args()
    others = programs()
    if not others:
        raise SystemExit("There is no ffmpeg on the PATH to compare with; install it.")
    spec = PictureSpec.of(read_manifest(args.bundle)[0].pictures)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.clips or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, (width, height, bit_rate) in CLIPS.items():
            path = folder / f"{name}.ts"
            if not path.exists():
                make_clip(path, width, height, bit_rate, args.seconds)
            for threads in (2, 1):
                compare(path, threads, args.runs, ours(spec), others)


if __name__ == "__main__":
    main()
