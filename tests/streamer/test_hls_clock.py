import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from servers import RATE

from streamer.sources import hls
from streamer.sources.base import SourceFault
from streamer.sources.hls import ProgramClock, read_playlist
from streamer.sources.libav import LibavSource

WRAP_US = 2**33 * 1_000_000 // 90_000
DATES = ("2026-05-30T19:00:00.000+00:00", "2026-05-30T22:15:30.500+02:00")
STARTS_US = [round(datetime.fromisoformat(date).timestamp() * 1e6) for date in DATES]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten numbered seconds with B frames, so that the first packet is not the only one that could be first."""
    return servers.broadcast(tmp_path_factory.mktemp("media") / "broadcast.ts", 10, b_frames=2)


def packaged(media: Path, folder: Path, *flags: str, kind: str = "mpegts", date: str = DATES[0]) -> Path:
    """Write a finished playlist of 2 s segments that starts at a date; return its path."""
    servers.needs("ffmpeg")
    folder.mkdir(exist_ok=True)
    sound = ["-bsf:a", "aac_adtstoasc"] if kind == "fmp4" else []
    hls_flags = ["-hls_time", "2", "-hls_playlist_type", "vod", "-hls_segment_type", kind, *flags]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-copyts", "-i", str(media), "-c", "copy", *sound, "-f", "hls"]
    subprocess.run([*command, *hls_flags, "vod.m3u8"], check=True, cwd=folder)
    playlist = folder / "vod.m3u8"
    playlist.write_text(playlist.read_text().replace("#EXTINF", f"#EXT-X-PROGRAM-DATE-TIME:{date}\n#EXTINF", 1))
    return playlist


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL at which the files of tmp_path are served."""
    with servers.http_server(tmp_path) as server:
        yield server.url


Clocks = Callable[[str], ProgramClock]


@pytest.fixture
def clock_of() -> Iterator[Clocks]:
    made: list[ProgramClock] = []

    def make(url: str) -> ProgramClock:
        made.append(ProgramClock(url, {}))
        return made[-1]

    yield make
    for clock in made:
        clock.close()


def asked(clock: ProgramClock, stream_us: int, limit_s: float = 10.0) -> int | None:
    """Return what a clock says as soon as it says something."""
    deadline_s = time.monotonic() + limit_s
    while (said := clock(stream_us)) is None and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return said


def pictures(url: str) -> list[tuple[int, int]]:
    """Return number and stream time of some of the pictures, as FFmpeg's demuxer hands them out."""
    source, seen = LibavSource(url), []
    for frame in source.frames():
        if frame.picture is not None and frame.pts is not None:
            number = servers.number_of(frame.picture.rgb(servers.SPEC))
            seen.append((number, int(frame.pts * frame.time_base * 1_000_000)))
    source.close()
    return seen[::20]


def assert_dated(clock: ProgramClock, seen: list[tuple[int, int]], start_us: int) -> None:
    """Every picture was taken so long after the start as its number says, to a tick of the dates."""
    assert asked(clock, seen[-1][1]) is not None
    for number, stream_us in seen:
        said = clock(stream_us)
        assert said is not None
        assert abs(said - start_us - number * 1_000_000 // RATE) <= 1_000


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("mpegts", ()),
        ("fmp4", ()),
        ("mpegts", ("-hls_flags", "single_file")),
        ("fmp4", ("-hls_flags", "single_file")),
        ("mpegts", ("-output_ts_offset", "95440")),
    ],
    ids=["ts", "fmp4", "ts-byte-ranges", "fmp4-byte-ranges", "ts-wraps"],
)
def test_a_date_is_of_the_pictures_that_ffmpeg_hands_out(
    media: Path, tmp_path: Path, web: str, clock_of: Clocks, kind: str, flags: tuple[str, ...]
) -> None:
    packaged(media, tmp_path, *flags, kind=kind)
    url = f"{web}/vod.m3u8"
    seen = pictures(url)
    assert len(seen) > 10
    assert_dated(clock_of(url), seen, STARTS_US[0])


@given(wraps=st.integers(-3, 40), offset_us=st.integers(-3_600_000_000, 3_600_000_000))
def test_the_clock_does_not_care_how_often_time_was_unwrapped(wraps: int, offset_us: int) -> None:
    assert abs(hls.apart(5_000_000 + offset_us + wraps * WRAP_US, 5_000_000) - offset_us) <= 50


def test_each_stretch_between_discontinuities_has_its_own_date(
    media: Path, tmp_path: Path, web: str, clock_of: Clocks
) -> None:
    first = packaged(media, tmp_path / "a", "-output_ts_offset", "5000", date=DATES[0])
    second = packaged(media, tmp_path / "b", "-output_ts_offset", "100", date=DATES[1])
    parts = [re.sub(r"^(vod\d)", rf"{path.parent.name}/\1", path.read_text(), flags=re.M) for path in (first, second)]
    body = [part.partition("#EXT-X-PROGRAM")[2].partition("#EXT-X-ENDLIST")[0] for part in parts]
    head = parts[0].partition("#EXT-X-PROGRAM")[0]
    joined = f"{head}#EXT-X-PROGRAM{body[0]}#EXT-X-DISCONTINUITY\n#EXT-X-PROGRAM{body[1]}#EXT-X-ENDLIST\n"
    (tmp_path / "both.m3u8").write_text(joined)
    clock = clock_of(f"{web}/both.m3u8")
    assert_dated(clock, pictures(f"{web}/b/vod.m3u8"), STARTS_US[1])
    assert_dated(clock, pictures(f"{web}/a/vod.m3u8"), STARTS_US[0])


def test_a_live_clock_learns_anew_when_timestamps_start_anew(
    media: Path, tmp_path: Path, web: str, clock_of: Clocks
) -> None:
    before = packaged(media, tmp_path / "a", "-output_ts_offset", "5000", date=DATES[0])
    after = packaged(media, tmp_path / "b", "-output_ts_offset", "100", date=DATES[1])
    seen = pictures(f"{web}/b/vod.m3u8")
    for path in (before, after):
        path.write_text(path.read_text().replace("#EXT-X-ENDLIST", "").replace("#EXT-X-PLAYLIST-TYPE:VOD", ""))
    (tmp_path / "live").symlink_to("a")
    clock = clock_of(f"{web}/live/vod.m3u8")
    assert asked(clock, 5_002_000_000) is not None
    (tmp_path / "live").unlink()
    (tmp_path / "live").symlink_to("b")
    assert clock(102_000_000) is None  # too far from all that is known to be dated by it
    assert_dated(clock, seen, STARTS_US[1])


def test_what_has_no_date_or_is_encrypted_or_not_there_is_not_dated(
    media: Path, tmp_path: Path, web: str, clock_of: Clocks
) -> None:
    text = packaged(media, tmp_path).read_text()
    (tmp_path / "undated.m3u8").write_text(re.sub(r"#EXT-X-PROGRAM.*\n", "", text))
    key = '#EXT-X-KEY:METHOD=AES-128,URI="key"\n#EXTINF'
    (tmp_path / "encrypted.m3u8").write_text(text.replace("#EXTINF", key, 1))
    (tmp_path / "empty.m3u8").write_text(re.sub(r"^vod\d", "gone", text, flags=re.M))
    clocks = [clock_of(f"{web}/{name}.m3u8") for name in ("undated", "encrypted", "empty", "nowhere")]
    time.sleep(0.5)
    assert [clock(3_000_000) for clock in clocks] == [None] * 4


def test_the_clocks_thread_ends_when_it_is_closed(media: Path, tmp_path: Path, web: str) -> None:
    clock = ProgramClock(f"{web}/nowhere.m3u8", {})
    clock.close()
    servers.wait_for(
        lambda: not any(thread.name == "program-clock" for thread in threading.enumerate()), lambda: "the thread"
    )


# What a playlist says


def test_a_playlist_with_an_end_is_a_recording(media: Path, tmp_path: Path, web: str) -> None:
    path = packaged(media, tmp_path)
    assert read_playlist(f"{web}/vod.m3u8", {}) == hls.Playlist(f"{web}/vod.m3u8", f"{web}/vod.m3u8", True, 2.0)
    path.write_text(path.read_text().replace("#EXT-X-ENDLIST", ""))
    assert not read_playlist(f"{web}/vod.m3u8", {}).recording


def test_a_playlist_that_is_not_quite_right_is_left_to_ffmpeg(tmp_path: Path, web: str) -> None:
    text = "#EXTM3U\n#EXT-X-TARGETDURATION:2.5\n#EXT-X-PROGRAM-DATE-TIME:yesterday\n#EXTINF:2.0,\nvod0.ts\n"
    (tmp_path / "live.m3u8").write_text(text)
    playlist = read_playlist(f"{web}/live.m3u8", {})
    assert (playlist.recording, playlist.burst_s) == (False, 2.5)


MASTER = """#EXTM3U
#EXT-X-STREAM-INF:BANDWIDTH=300000,RESOLUTION=640x360{sound}
vod.m3u8?q=360
#EXT-X-STREAM-INF:BANDWIDTH=8000000,RESOLUTION=1920x1080{sound}
vod.m3u8?q=1080
#EXT-X-STREAM-INF:BANDWIDTH=3000000,RESOLUTION=1280x720{sound}
vod.m3u8?q=720
#EXT-X-STREAM-INF:BANDWIDTH=64000,CODECS="mp4a.40.2"
vod.m3u8?q=sound
"""


def test_of_several_variants_the_best_one_that_is_not_larger_than_needed_is_read(
    media: Path, tmp_path: Path, web: str
) -> None:
    packaged(media, tmp_path)
    (tmp_path / "master.m3u8").write_text(MASTER.format(sound=""))
    assert read_playlist(f"{web}/master.m3u8", {}).url == f"{web}/vod.m3u8?q=720"


def test_credentials_in_the_url_are_used_for_what_it_names_too(media: Path, tmp_path: Path, web: str) -> None:
    packaged(media, tmp_path)
    (tmp_path / "master.m3u8").write_text(MASTER.format(sound=""))
    web = web.replace("//", "//me:secret@")
    assert read_playlist(f"{web}/master.m3u8", {}).url == f"{web}/vod.m3u8?q=720"


def test_variants_whose_sound_is_elsewhere_are_left_to_ffmpeg(media: Path, tmp_path: Path, web: str) -> None:
    packaged(media, tmp_path)
    sound = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="sound.m3u8"\n'
    (tmp_path / "master.m3u8").write_text(MASTER.format(sound=',AUDIO="a"') + sound)
    playlist = read_playlist(f"{web}/master.m3u8", {})
    assert (playlist.url, playlist.dated_url) == (f"{web}/master.m3u8", f"{web}/vod.m3u8?q=720")


@pytest.mark.parametrize(
    ("name", "cause", "reason"),
    [
        ("nowhere.m3u8", "unreachable", "HTTP 404"),
        ("page.m3u8", "no_media", "no playlist"),
        ("master.m3u8", "no_media", "no variant"),
    ],
)
def test_what_is_no_playlist_is_said_in_a_sentence(
    tmp_path: Path, web: str, name: str, cause: str, reason: str
) -> None:
    (tmp_path / "page.m3u8").write_text("<html>")
    (tmp_path / "master.m3u8").write_text(
        "#EXTM3U\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=x\n#EXT-X-STREAM-INF:BANDWIDTH=1\n"
    )
    with pytest.raises(SourceFault, match=reason) as fault:
        read_playlist(f"{web}/{name}?token=secret", {})
    assert fault.value.cause == cause
    assert "secret" not in str(fault.value)


@pytest.mark.parametrize(
    ("user", "options", "expected"),
    [
        ("", {"user_agent": "me", "referer": "http://r/"}, {"User-Agent": "me", "Referer": "http://r/"}),
        ("", {"headers": "Authorization: Bearer x\r\nCookie: a=b\r\n"}, {"Authorization": "Bearer x", "Cookie": "a=b"}),
        ("me:a%20b@", {}, {"Authorization": "Basic bWU6YSBi"}),
    ],
)
def test_playlists_are_asked_for_as_ffmpeg_would(
    free_port: int, user: str, options: dict[str, str], expected: dict[str, str]
) -> None:
    asked: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.update(self.headers)
            self.send_error(403)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", free_port), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(SourceFault, match="HTTP 403"):
            read_playlist(f"http://{user}127.0.0.1:{free_port}/live.m3u8", options)
        thread.join()
    assert expected.items() <= asked.items()
