"""Every odd stream of ../shared either plays to its end or is refused in one sentence; what plays is the right thing.

Run as a program, this file is the worker that plays them, so that a hang or a crash is seen from outside.
"""

import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.second import UINT8
from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import PictureSpec, SourceFault
from streamer.sources.libav import LibavSource

LIMIT_S = 15.0
WORKERS = 2
MOST_GROWTH_BYTES = 10 * 2**20
"""Of one worker, by opening its share once more; a container that is never closed costs 1 MB a file."""
DEMO = PictureSpec(rate=4, width=160, height=90)
READABLE = PictureSpec(rate=25, width=320, height=180)

pytestmark = pytest.mark.timeout(300)  # they take half a minute, and longer where other tests run beside them

Played = dict[str, Any]


def play(path: str, most: int | None) -> Played:
    """Return what came of a file, or of its first seconds."""
    source: LibavSource | None = None
    try:
        source = LibavSource(path)
        seconds = list(islice(seconds_of(source.frames(), Sampler(DEMO)), most))
        return {
            "seconds": len(seconds),
            "pictures": sum(second.video_filled for second in seconds),
            "sound": sum(second.audio_filled for second in seconds),
        }
    except SourceFault as fault:
        return {"cause": fault.cause, "sentence": str(fault)}
    finally:
        if source is not None:
            source.close()


def usage() -> Played:
    """Return what this process holds."""
    memory = 0
    with suppress(OSError):  # Linux only
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return {"files": len(os.listdir("/dev/fd")), "memory": memory}


class Worker:
    """A process that plays files, one after the other; a new one when it hangs or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: str, most: int | None = None) -> Played:
        """Return what came of a file; of an empty path, what the process holds."""
        if self._process is None:
            command = [sys.executable, __file__]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.ask("")  # it has started
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([path, most]) + "\n")
        process.stdin.flush()
        answered, _, _ = select.select([process.stdout], [], [], LIMIT_S if path else 60)
        line = process.stdout.readline() if answered else ""
        if line:
            answer: Played = json.loads(line)
            return answer
        self.close()
        return {"lost": "it died" if answered else "it hung"}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@dataclass
class Share:
    """What one worker played to the end, and what it held whenever it had opened everything once more."""

    paths: list[str]
    played: Played = field(default_factory=dict)
    held: list[Played] = field(default_factory=list)

    def run(self) -> None:
        with closing(Worker()) as worker:
            self.played = {path: worker.ask(path) for path in self.paths}
            for _ in range(2):
                left = [worker.ask(path, most=1) for path in self.paths]
                self.held.append({**worker.ask(""), "lost": [found for found in left if "lost" in found]})


@pytest.fixture(scope="module")
def shares() -> list[Share]:
    streams = Path(__file__).parents[3] / "shared" / "data" / "streams"
    if not streams.is_dir():
        pytest.skip("../shared is not there")
    paths = sorted(str(p) for p in streams.rglob("*") if p.is_file() and p.suffix != ".md")
    shares = [Share(paths[k::WORKERS]) for k in range(WORKERS)]
    threads = [threading.Thread(target=share.run) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return shares


@pytest.fixture
def played(shares: list[Share], shared: Path) -> Played:
    """Return what came of each file, by its name within the folder."""
    root = shared / "data" / "streams"
    return {str(Path(p).relative_to(root)): found for share in shares for p, found in share.played.items()}


def test_every_stream_plays_to_its_end_or_is_refused_in_one_sentence(shares: list[Share]) -> None:
    wrong = {
        path: found
        for share in shares
        for path, found in share.played.items()
        if found.get("seconds", 0) == 0 and (not found.get("sentence", "").endswith(".") or "\n" in found["sentence"])
    }
    assert sum(len(share.played) for share in shares) > 130
    assert wrong == {}


def test_a_stream_that_is_left_early_leaves_nothing_behind(shares: list[Share]) -> None:
    for share in shares:
        first, second = share.held
        assert first["lost"] == second["lost"] == []
        assert second["files"] == first["files"]
        assert second["memory"] - first["memory"] < MOST_GROWTH_BYTES


def test_only_what_holds_no_picture_is_refused(played: Played) -> None:
    refused = {name: found["cause"] for name, found in played.items() if "cause" in found}
    assert {name for name, cause in refused.items() if cause == "undecodable"} == {"real/vp9_invalid_bitstream.webm"}
    assert {name for name, cause in refused.items() if cause == "no_picture"} == {
        "made/audio_only.mp2",
        "made/audio_only.ts",
        "real/aac_8k_mono.m4a",
        "real/aac_latm_only.ts",
        "real/aac_truncated.adts",
        "real/ac3_51_only.ts",
        "real/ac4_undecodable.ts",
        "real/announced_but_absent_streams.ts",
        "real/dvb_scrambled_csa.ts",
        "real/edit_list_audio_only.mp4",
        "real/hbbtv_ait_eac3.ts",
        "real/hls_multi-segment/init.mp4",
        "real/isdb_no_media_packets.ts",
        "real/pcm_s32_8k.wav",
        "real/sdt_video_without_packets.ts",
    }
    assert {name for name, cause in refused.items() if cause == "no_media"} == {
        "made/empty.mp4",
        "made/empty.ts",
        "made/html_404.ts",
        "made/noise.ts",
        "made/null_packets_only.ts",
        "made/onebyte.ts",
        "made/text.mp4",
        "made/truncated_no_moov.mp4",
        "made/zeros.ts",
        "real/encrypted_clearkey.mp4",
        "real/fragment_without_init.mp4",
        "real/hls_aes128_segment.ts",
        "real/hls_multi-segment/playlist0.m4s",
        "real/hls_multi-segment/playlist1.m4s",
        "real/malformed_free_box.mp4",
    }
    assert set(refused.values()) == {"undecodable", "no_picture", "no_media"}


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("made/1fps.mp4", 24),
        ("made/320x180p120.mp4", 4),
        ("made/576p50.ts", 5),
        ("made/576p5994_noaudio.mp4", 5),
        ("made/audio_51_ac3.ts", 5),
        ("made/audio_mono_8k.mp4", 5),
        ("made/av1_10bit_opus.webm", 4),
        ("made/bframes.avi", 5),
        ("made/bpyramid_8b.ts", 8),
        ("made/fragmented.mp4", 8),
        ("made/gop20s.ts", 42),
        ("made/h264_422_10bit_pcm.mov", 3),
        ("made/hevc.ts", 6),
        ("made/hevc_10bit.mp4", 6),
        ("made/huge_ts_347days.mkv", 6),
        ("made/missing_pts_after_first.ts", 10),
        ("made/mpeg2_576i25_tff.ts", 3),
        ("made/packets192.m2ts", 5),
        ("made/packets204.ts", 5),
        ("made/pat_pmt_late.ts", 10),
        ("made/plain.flv", 5),
        ("made/plain.ts", 10),
        ("made/raw.h264", 4),
        ("made/truncated_faststart.mp4", 5),
        ("made/truncated_fragmented.mp4", 6),
        ("made/vfr.mp4", 12),
        ("made/video_only.ts", 8),
        ("made/vp8_vorbis.webm", 6),
        ("made/vp9_opus.webm", 6),
        ("real/audio_announced_never_sent.ts", 9),
        ("real/av1_no_audio.mkv", 5),
        ("real/bipbop_audio_first.ts", 10),
        ("real/cea608_sintel.ts", 10),
        ("real/first_pts_10s.mp4", 4),
        ("real/fragmented_wrong_duration.mp4", 1),
        ("real/h264_10bit.mp4", 1),
        ("real/hls_cea608/manifest.m3u8", 3),
        ("real/hls_multi-segment/playlist.m3u8", 1),
        ("real/six_streams.mp4", 13),
        ("real/vp9_10bit.webm", 3),
        ("real/vp9_161x121.webm", 1),
    ],
)
def test_a_stream_has_as_many_seconds_as_it_holds(played: Played, name: str, seconds: int) -> None:
    assert played[name]["seconds"] == seconds


@pytest.mark.parametrize("name", ["real/dvb_bad_utf8_service_name.ts", "real/dvb_multiplex_5_services.ts"])
def test_of_many_streams_one_that_can_be_decoded_is_watched(played: Played, name: str) -> None:
    assert played[name]["pictures"] > 0


@pytest.mark.parametrize("name", ["live_never_updated.m3u8", "missing_segment.m3u8"])
def test_a_local_playlist_without_an_end_or_a_segment_is_read_as_it_stands(played: Played, name: str) -> None:
    assert played[f"made/hls_disc/{name}"]["pictures"] == pytest.approx(8, abs=0.5)
    assert played["made/hls_disc/index.m3u8"]["pictures"] == pytest.approx(12, abs=0.5)


def screens(path: Path) -> Iterator[UINT8]:
    """Yield every picture of a file, as it is shown on a screen of 16:9."""
    with closing(LibavSource(str(path))) as source:
        yield from (f.picture.rgb(READABLE) for f in source.frames() if f.picture is not None)


def inside(screen: UINT8) -> UINT8:
    """Return a screen without black bars at its sides."""
    columns = np.flatnonzero(screen.max((0, 2)) > 24)
    return screen[:, columns[0] : columns[-1] + 1]


def counted(picture: UINT8) -> int | None:
    """Return the number that the 16 blocks at the top left say, None if one of them is neither black nor white."""
    height, width = picture.shape[:2]
    blocks = [picture[round(0.5 * height / 45), round((k + 0.5) * width / 40)].mean() for k in range(16)]
    if any(64 < block < 192 for block in blocks):
        return None
    return sum(1 << (15 - k) for k, block in enumerate(blocks) if block >= 192)


def numbers(path: Path, upright: int = 0) -> list[int | None]:
    """Return the numbers that a file's pictures carry, after quarter turns clockwise."""
    return [counted(np.rot90(inside(screen), -upright)) for screen in screens(path)]


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("plain.ts", 250),
        ("sar_4_3.ts", 150),
        ("hevc.ts", 150),
        ("hevc_10bit.mp4", 150),
        ("av1_10bit_opus.webm", 100),
        ("vp8_vorbis.webm", 150),
        ("vp9_opus.webm", 150),
        ("h264_422_10bit_pcm.mov", 75),
        ("576p50.ts", 250),
        ("bframes.avi", 125),
        ("raw.h264", 100),
    ],
)
def test_every_picture_is_the_right_one(shared: Path, name: str, pictures: int) -> None:
    assert numbers(shared / "data" / "streams" / "made" / name) == list(range(pictures))


@pytest.mark.parametrize(
    ("name", "first", "pictures"),
    [("mpeg2_576i25_tff.ts", 0, 61), ("h264_576i25_tff.ts", 0, 84), ("mpeg2_576i25_bff.ts", 1, 61)],
)
def test_interlaced_pictures_show_one_moment_each(shared: Path, name: str, first: int, pictures: int) -> None:
    """The upper field is the earlier of the two where it comes first, and the later one elsewhere."""
    found = numbers(shared / "data" / "streams" / "made" / name)[:pictures]  # the last one is damaged where cut
    assert found == list(range(first, first + 2 * pictures, 2))


def test_pictures_are_turned_as_the_file_says(shared: Path) -> None:
    path = shared / "data" / "streams" / "made" / "rotate90.mp4"
    assert inside(next(screens(path))).shape[1] == pytest.approx(180 * 9 / 16, abs=2)
    assert numbers(path, upright=1) == list(range(125))


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("made/plain.ts", 320),
        ("made/sar_4_3.ts", 320),
        ("made/mpeg2_576i25_tff.ts", 320),
        ("made/mpeg2_576i25_bff.ts", 240),
        ("made/576p50.ts", 225),
    ],
)
def test_a_screen_has_bars_only_beside_a_picture_of_another_shape(shared: Path, name: str, width: int) -> None:
    assert inside(next(screens(shared / "data" / "streams" / name))).shape[1] == width


def test_a_change_of_size_in_mid_stream_is_followed(shared: Path) -> None:
    found = numbers(shared / "data" / "streams" / "made" / "restart_640x360p25_480x270p30.ts")
    assert found == [*range(150), *range(180)]


def work() -> None:
    """Play what is asked for until nothing more is."""
    for line in sys.stdin:
        path, most = json.loads(line)
        print(json.dumps(play(path, most) if path else usage()), flush=True)


if __name__ == "__main__":
    work()
