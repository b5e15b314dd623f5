import errno
import io
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
import pytest
from av.stream import Disposition

from streamer.sampler import Sampler, seconds_of
from streamer.sources.base import Cause, Frame, PictureSpec, SourceFault, Wall
from streamer.sources.libav import LibavSource, WallOfPackets
from streamer.timeline import to_us

SPEC = PictureSpec(rate=4, width=160, height=90)
TICKS = Fraction(1, 90_000)


def frames_of(source: LibavSource) -> list[Frame]:
    with closing(source):
        return list(source.frames())


def pictures_of(source: LibavSource) -> list[Frame]:
    return [frame for frame in frames_of(source) if frame.picture is not None]


def clip(path: Path, format: str, seconds: int = 4, start_us: int = 0, gop: int = 25) -> Path:
    """Write a clip of 25 grey pictures a second, each a little lighter than the last, with a hum."""
    with av.open(str(path), "w", format=format, options={"muxdelay": "0"}) as out:
        video = out.add_stream("libx264", rate=25, options={"g": str(gop), "preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 64, 36, "yuv420p"
        audio = out.add_stream("aac", rate=48_000)
        audio.layout = "mono"
        first = start_us * 25 // 1_000_000
        for k in range(25 * seconds):
            picture = av.VideoFrame.from_ndarray(np.full((36, 64, 3), 20 + 2 * k % 200, np.uint8), "rgb24")
            picture.pts, picture.time_base = first + k, Fraction(1, 25)
            out.mux(video.encode(picture))
            hum = np.sin(np.arange(1920) * 2 * np.pi * 50 / 48_000, dtype=np.float32).reshape(1, -1) / 2
            block = av.AudioFrame.from_ndarray(hum, "fltp", "mono")
            block.sample_rate, block.pts, block.time_base = 48_000, (first + k) * 1920, Fraction(1, 48_000)
            out.mux(audio.encode(block))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    formats = {"ts": "mpegts", "flv": "flv", "mp4": "mp4", "mkv": "matroska", "mpg": "mpeg"}
    return {name: clip(folder / f"clip.{name}", format) for name, format in formats.items() if name != "mpg"}


# What is refused, and why


@pytest.mark.parametrize(
    ("content", "cause", "sentence"),
    [
        (None, "unreachable", "there is no such file"),
        (b"", "no_media", "its content is no video"),
        (b"<html>404</html>", "no_media", "its content is no video"),
        (b"\x47\x1f\xff\x10" + bytes(184), "no_media", ""),
    ],
)
def test_what_is_no_stream_is_refused_with_a_cause(
    tmp_path: Path, content: bytes | None, cause: Cause, sentence: str
) -> None:
    path = tmp_path / "file.ts"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceFault, match=rf"^{path}: cannot be opened: .*{sentence}.*\.$") as caught:
        LibavSource(str(path))
    assert caught.value.cause == cause


def test_a_folder_is_no_stream(tmp_path: Path) -> None:
    with pytest.raises(SourceFault, match=r"cannot be opened: it is a folder\.$"):
        LibavSource(str(tmp_path))


def test_nobody_there_is_unreachable_and_no_password_is_shown(free_port: int) -> None:
    with pytest.raises(SourceFault, match=r"^tcp://127\.0\.0\.1:\d+/…?: .*connection refused") as caught:
        LibavSource(f"tcp://me:secret@127.0.0.1:{free_port}/")
    assert caught.value.cause == "unreachable"


def test_a_protocol_that_ffmpeg_does_not_have_is_unreachable() -> None:
    with pytest.raises(SourceFault, match="cannot be opened") as caught:
        LibavSource("nonsense://127.0.0.1/stream")
    assert caught.value.cause == "unreachable"


def test_sound_alone_is_nothing_to_watch(tmp_path: Path) -> None:
    path = tmp_path / "sound.mka"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000)
        stream.layout = "mono"
        block = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), "s16", "mono")
        block.sample_rate = 16_000
        out.mux(stream.encode(block))
    with pytest.raises(SourceFault, match=r"there is no picture in it, so there is nothing to watch\.$") as caught:
        LibavSource(str(path))
    assert caught.value.cause == "no_picture"


def test_the_cover_of_a_record_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        song, cover = out.add_stream("mp3", rate=48_000), out.add_stream("mjpeg")
        song.layout, song.format = "mono", "fltp"
        cover.width, cover.height, cover.pix_fmt = 64, 36, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        out.start_encoding()
        picture = av.VideoFrame.from_ndarray(np.zeros((36, 64, 3), np.uint8), "rgb24").reformat(format="yuvj420p")
        picture.pts, picture.time_base = 0, Fraction(1, 25)
        for packet in (*cover.encode(picture), *cover.encode(None)):
            out.mux(packet)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), "fltp", "mono")
        block.sample_rate, block.pts = 48_000, 0
        out.mux(song.encode(block))
        out.mux(song.encode(None))
    with pytest.raises(SourceFault) as caught:
        LibavSource(str(path))
    assert caught.value.cause == "no_picture"


# How it is read


@pytest.mark.parametrize("name", ["ts", "flv", "mp4", "mkv"])
def test_a_file_is_a_recording_of_known_length(clips: dict[str, Path], name: str) -> None:
    source = LibavSource(str(clips[name]))
    pictures = pictures_of(source)
    assert source.info.recording
    assert source.info.duration_s == pytest.approx(4, abs=0.1)
    assert (source.info.video, source.info.audio, source.info.width, source.info.height) == ("h264", "aac", 64, 36)
    assert len(pictures) == 100
    assert source.first_us == to_us(pictures[0].pts or 0, pictures[0].time_base)
    assert all(p.duration * p.time_base == pytest.approx(0.04, abs=0.001) for p in pictures)


@pytest.mark.parametrize(("name", "wraps_at"), [("ts", 2**33), ("flv", 2**31), ("mp4", 0), ("mkv", 0)])
def test_a_frame_says_when_its_clock_wraps(clips: dict[str, Path], name: str, wraps_at: int) -> None:
    assert {frame.wraps_at for frame in frames_of(LibavSource(str(clips[name])))} == {wraps_at}


def test_picture_and_sound_wrap_where_the_container_does(shared: Path) -> None:
    frames = frames_of(LibavSource(str(shared / "data" / "streams" / "made" / "wrap_once.ts")))
    for kind in ("picture", "samples"):
        pts = [f.pts for f in frames if getattr(f, kind) is not None and f.pts is not None]
        steps = np.diff(np.array(pts, np.int64) % 2**33)
        assert np.sum(steps < 0) == 1
        assert steps.min() + 2**33 < 9_000
        assert {f.time_base for f in frames} == {TICKS}


def test_an_open_stream_of_bytes_is_read_under_its_name(clips: dict[str, Path]) -> None:
    program = [sys.executable, "-c", "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb').read())"]
    with subprocess.Popen([*program, str(clips["ts"])], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        source = LibavSource("srt://me:secret@host:9000", file=process.stdout, format="mpegts")
        assert not source.info.recording
        assert len(pictures_of(source)) == 100
    with pytest.raises(SourceFault, match=r"^srt://host:9000: cannot be opened"):
        LibavSource("srt://me:secret@host:9000", file=io.BytesIO(b""))


class Slow(io.RawIOBase):
    """Gives out what there is, a little at a time, and not what is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000))


def test_short_reads_are_no_end(clips: dict[str, Path]) -> None:
    with clips["ts"].open("rb") as file:
        slow: Any = Slow(file)
        assert len(pictures_of(LibavSource("slow", file=slow))) == 100


def test_the_users_options_come_first(shared: Path) -> None:
    path = str(shared / "data" / "streams" / "made" / "wrap_once.ts")
    repaired = pictures_of(LibavSource(path, options={"correct_ts_overflow": "1"}))
    assert min(p.pts or 0 for p in repaired) < 0


def test_options_that_a_container_does_not_know_do_no_harm(clips: dict[str, Path]) -> None:
    for path in clips.values():
        assert len(pictures_of(LibavSource(str(path), options={"no_such_option": "1"}))) == 100


def test_every_packet_is_tapped_before_it_is_decoded(clips: dict[str, Path]) -> None:
    order: list[str] = []
    source = LibavSource(str(clips["ts"]), tap=lambda packet: order.append(packet.stream.type))
    with closing(source):
        for frame in source.frames():
            order.append("a picture" if frame.picture is not None else "sound")
        assert source.video_stream.type == "video"
        assert source.audio_stream is not None
    assert order.count("video") == order.count("a picture") == 100
    assert order.count("audio") >= order.count("sound") > 150
    assert order.index("video") < order.index("a picture")


def test_skipping_leaves_out_pictures_up_to_the_next_key_frame(clips: dict[str, Path]) -> None:
    tapped: list[str] = []
    source = LibavSource(str(clips["ts"]), tap=lambda packet: tapped.append(packet.stream.type))
    seen = 0
    with closing(source):
        for frame in source.frames():
            if frame.picture is not None:
                seen += 1
                if seen == 3:
                    source.skip()
    assert 15 < source.skipped < 25
    assert seen == 100 - source.skipped
    assert tapped.count("video") == 100


def test_a_codec_that_changes_under_the_decoder_is_given_up(shared: Path) -> None:
    path = str(shared / "data" / "streams" / "made" / "restart_h264_to_mpeg2.ts")
    with pytest.raises(SourceFault, match=r"its pictures can no longer be decoded\.$") as caught:
        frames_of(LibavSource(path, give_up_after=25))
    assert caught.value.cause == "undecodable"
    recording = LibavSource(path)
    assert len(pictures_of(recording)) > 120
    assert recording.decode_errors > 90


def test_damage_alone_is_not_given_up(shared: Path) -> None:
    for name in ("damage_1pct.ts", "lost_packets_2pct.ts", "cut_midgop_both_ends.ts"):
        path = str(shared / "data" / "streams" / "made" / name)
        assert len(pictures_of(LibavSource(path, give_up_after=25))) > 200


def test_pictures_that_never_come_are_said_at_the_end(shared: Path) -> None:
    real = shared / "data" / "streams" / "real"
    with pytest.raises(SourceFault, match="it announces a picture, but sends none") as caught:
        frames_of(LibavSource(str(real / "announced_but_absent_streams.ts")))
    assert caught.value.cause == "no_picture"
    with pytest.raises(SourceFault, match="none of its pictures can be decoded") as caught:
        frames_of(LibavSource(str(real / "vp9_invalid_bitstream.webm")))
    assert caught.value.cause == "undecodable"


def test_of_two_sounds_the_pictures_own_is_heard(shared: Path) -> None:
    source = LibavSource(str(shared / "data" / "streams" / "made" / "two_programmes.ts"))
    with closing(source):
        assert source.audio_stream is not None
        assert source.audio_stream.index == source.video_stream.index + 1


# Entering a recording


@pytest.mark.parametrize("name", ["ts", "flv", "mp4", "mkv"])
def test_a_recording_is_entered_shortly_before_the_time_that_is_wanted(clips: dict[str, Path], name: str) -> None:
    whole = pictures_of(LibavSource(str(clips[name])))
    source = LibavSource(str(clips[name]), start_s=2.5)
    assert source.first_us == to_us(whole[0].pts or 0, whole[0].time_base)
    pictures = pictures_of(source)
    entered = to_us(pictures[0].pts or 0, pictures[0].time_base) - source.first_us
    assert 0 < entered <= 2_500_000
    assert [p.pts for p in pictures] == [p.pts for p in whole[-len(pictures) :]]


def test_the_first_second_is_entered_at_the_first_picture(clips: dict[str, Path]) -> None:
    assert len(pictures_of(LibavSource(str(clips["ts"]), start_s=1.0))) == 100


@pytest.mark.parametrize("name", ["raw.h264", "jump_back_600s.ts"])
def test_a_recording_that_cannot_be_entered_is_read_from_its_start(shared: Path, name: str) -> None:
    path = str(shared / "data" / "streams" / "made" / name)
    whole, entered = pictures_of(LibavSource(path)), pictures_of(LibavSource(path, start_s=1000.0))
    assert len(entered) in (len(whole), len(whole) // 2)


# Whether it has an end of its own


class Web(SimpleHTTPRequestHandler):
    """Serves files whole; under /live/ without saying how long they are."""

    def log_message(self, *_: object) -> None:
        pass

    def send_header(self, keyword: str, value: str) -> None:
        if not (self.path.startswith("/live/") and keyword == "Content-Length"):
            super().send_header(keyword, value)

    def translate_path(self, path: str) -> str:
        return super().translate_path("/" + path.removeprefix("/live/"))

    def copyfile(self, source: Any, outputfile: Any) -> None:
        try:
            super().copyfile(source, outputfile)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise


@pytest.fixture(scope="module")
def web(clips: dict[str, Path]) -> Iterator[str]:
    folder = clips["ts"].parent
    segment = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4.0,\nclip.ts\n"
    (folder / "live.m3u8").write_text(segment)
    (folder / "finished.m3u8").write_text(segment + "#EXT-X-ENDLIST\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "recording"),
    [
        ("clip.mp4", True),
        ("finished.m3u8", True),
        ("live.m3u8", False),
        ("live/clip.ts", False),
        ("live/clip.flv", False),
    ],
)
def test_over_http_only_what_has_an_end_is_a_recording(web: str, path: str, recording: bool) -> None:
    with closing(LibavSource(f"{web}/{path}")) as source:
        assert source.info.recording == recording


def test_whoever_knows_says_whether_it_is_a_recording(web: str, clips: dict[str, Path]) -> None:
    with closing(LibavSource(f"{web}/live/clip.ts", recording=True, burst_s=6.0)) as source:
        assert source.info.recording
        assert source.info.burst_s == 6.0
    with closing(LibavSource(str(clips["ts"]), recording=False)) as source:
        assert not source.info.recording


def test_a_named_pipe_is_no_recording(clips: dict[str, Path], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(clips["ts"].read_bytes()))
    writer.start()
    source = LibavSource(str(pipe))
    assert not source.info.recording
    assert len(pictures_of(source)) == 100
    writer.join()


def test_a_sender_that_goes_away_is_the_end(clips: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(clips["ts"].read_bytes())

        sender = threading.Thread(target=send)
        sender.start()
        source = LibavSource(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert not source.info.recording
        assert len(pictures_of(source)) == 100
        sender.join()


# The wall clock


class Stamped:
    """A packet that carries the wall clock."""

    def __init__(self, pts: int, utc_us: int | None) -> None:
        self.pts = pts
        self._data = None if utc_us is None else utc_us.to_bytes(8, "little", signed=True) + bytes(8)

    def has_sidedata(self, kind: str) -> bool:
        return kind == "prft" and self._data is not None

    def get_sidedata(self, kind: str) -> bytes:
        assert self._data is not None
        return self._data


@pytest.mark.parametrize(("container", "clock"), [("rtsp", "rtcp"), ("sdp", "rtcp"), ("mpegts", "prft")])
def test_pictures_are_timed_from_the_last_packet_that_says_the_wall_clock(container: str, clock: str) -> None:
    wall = WallOfPackets(container, 2**33, program_clock=lambda stream_us: 7)
    stamped: Any = Stamped(2**33 - 90_000, 1_000_000_000)
    silent: Any = Stamped(0, None)
    wall.take(stamped)
    wall.take(silent)
    moments = [wall.at(pts, TICKS) for pts in (2**33 - 180_000, 2**33 - 90_000, 90_000)]
    assert [(w.utc_us, w.clock) for w in moments if w] == [
        (999_000_000, clock),
        (1_000_000_000, clock),
        (1_002_000_000, clock),
    ]
    assert wall.at(None, TICKS) is None


def test_without_it_the_playlists_clock_is_asked(clips: dict[str, Path]) -> None:
    asked: list[int] = []

    def program_clock(stream_us: int) -> int | None:
        asked.append(stream_us)
        return stream_us + 5 if len(asked) > 10 else None

    pictures = pictures_of(LibavSource(str(clips["ts"]), program_clock=program_clock))
    assert asked == [to_us(p.pts or 0, p.time_base) for p in pictures]
    assert [p.wall for p in pictures[:10]] == [None] * 10
    assert pictures[10].wall == Wall(asked[10] + 5, "hls")


def test_pictures_that_nobody_times_have_no_wall_clock(clips: dict[str, Path]) -> None:
    assert {p.wall for p in pictures_of(LibavSource(str(clips["mp4"])))} == {None}


# Threads


def test_decoder_threads_change_nothing(clips: dict[str, Path]) -> None:
    one, two = (
        list(seconds_of(frames_of(LibavSource(str(clips["ts"]), threads=threads)), Sampler(SPEC))) for threads in (1, 2)
    )
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two, strict=True):
        assert np.array_equal(alone.pictures_NHWC, together.pictures_NHWC)
        assert np.array_equal(alone.samples_S, together.samples_S)


def test_a_source_that_is_closed_gives_nothing_more(clips: dict[str, Path]) -> None:
    source = LibavSource(str(clips["ts"]))
    frames = source.frames()
    assert next(frames)
    source.close()
    source.close()
    assert list(frames) == []


def test_a_source_may_be_closed_while_another_thread_waits_for_it(clips: dict[str, Path]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as start, os.fdopen(reading, "rb") as end:
        sender = threading.Thread(target=lambda: start.write(clips["ts"].read_bytes()))
        sender.start()
        source = LibavSource("pipe", file=end, format="mpegts", options={"analyzeduration": "1000000"})
        seen: list[Frame] = []
        reader = threading.Thread(target=lambda: seen.extend(source.frames()))
        reader.start()
        sender.join()  # all but what the pipe holds has been read
        source.close()
        start.close()
        reader.join()
    assert len(seen) < 300
