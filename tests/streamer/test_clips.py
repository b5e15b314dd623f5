import json
import pickle
import re
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.decider import Spot
from engines.second import FLOAT32
from streamer.ingest import clips as clips_module
from streamer.ingest.clips import SETTLE_S, ClipRequest, Clips, clip_path_stem, keep_s, request_for
from streamer.ingest.messages import ClipDone
from streamer.sources.libav import LibavSource
from streamer.sources.remux import ClipFault, Written, write_clip
from streamer.sources.ring import Cut, Ring
from streamer.timeline import Timeline

US = 1_000_000
SPOT = Spot(
    id="0a1b",
    stream="main",
    half=1,
    epoch=2,
    label="Ball out of play",
    media_time=3725.25,
    confidence=0.9,
    emitted_at=3730.0,
)


def read(path: Path, ring: Ring) -> None:
    """Fill a ring as the reading process does."""
    source, timeline = LibavSource(str(path), tap=ring.push), Timeline()
    for frame in source.frames():
        if frame.picture is not None:
            at = timeline.place_picture(frame.pts, frame.time_base, frame.wraps_at, frame.duration)
            ring.place(frame.pts, at.epoch, at.us)
    source.close()


@cache
def filled(path: Path) -> Ring:
    """Return a ring with a whole file in it; nobody changes it."""
    ring = Ring(1000)
    read(path, ring)
    return ring


def cut(path: Path, start_s: float, end_s: float, epoch: int = 0) -> Cut:
    found = filled(path).cut(epoch, round(start_s * US), round(end_s * US))
    assert found is not None
    return found


def counter(frame: av.VideoFrame) -> int:
    """Return the number that the made streams write into each picture: 16 blocks at the top left."""
    grey = frame.to_ndarray(format="gray8")
    width, height = frame.width / 40, frame.height / 45
    bits = [grey[int(height / 2), int((i + 0.5) * width)] > 128 for i in range(16)]
    return int("".join("01"[int(bit)] for bit in bits), 2)


def decoded(path: Path) -> tuple[list[av.VideoFrame], list[av.AudioFrame]]:
    """Decode a clip; damage is an error."""
    pictures: list[av.VideoFrame] = []
    sound: list[av.AudioFrame] = []
    with av.open(str(path)) as clip:
        for frame in clip.decode():
            assert isinstance(frame, av.VideoFrame | av.AudioFrame)
            assert not frame.is_corrupt
            if isinstance(frame, av.VideoFrame):
                pictures.append(frame)
            else:
                sound.append(frame)
    return pictures, sound


@pytest.fixture
def made(shared: Path) -> Path:
    return shared / "data" / "streams" / "made"


# What a clip is


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("plain.ts", ".mp4"),
        ("plain.flv", ".mp4"),
        ("wrap_once.ts", ".mp4"),
        ("bpyramid_8b.ts", ".mp4"),
        ("hevc.ts", ".mp4"),
        ("av1_10bit_opus.webm", ".mp4"),
        ("audio_51_ac3.ts", ".mp4"),
        ("video_only.ts", ".mp4"),
        ("mpeg2_576i25_tff.ts", ".mkv"),
        ("vp8_vorbis.webm", ".mkv"),
        ("h264_422_10bit_pcm.mov", ".mkv"),
    ],
)
def test_a_clip_of_any_codec_plays_from_zero(made: Path, tmp_path: Path, name: str, suffix: str) -> None:
    stretch = cut(made / name, 0.6, 1.6)
    written = write_clip(stretch, tmp_path / "clip")
    pictures, sound = decoded(written.path)
    assert written.path == tmp_path / f"clip{suffix}"
    assert len(pictures) == len(stretch.pictures)
    times = [picture.time for picture in pictures]
    assert times[0] == pytest.approx(0, abs=1e-3)
    assert times == sorted(times)
    assert times[-1] == pytest.approx((written.end_us - written.start_us) / US - times[1], abs=2e-3)
    assert bool(sound) == (name != "video_only.ts")
    assert list(tmp_path.iterdir()) == [written.path]


def test_the_sample_broadcast_gives_a_clip(short_sample: Path, tmp_path: Path) -> None:
    stretch = cut(short_sample, 12, 20)
    written = write_clip(stretch, tmp_path / "clip")
    pictures, sound = decoded(written.path)
    assert written.start_us <= 12 * US
    assert written.end_us >= 20 * US
    assert len(pictures) == round((written.end_us - written.start_us) / 40_000)
    assert sum(block.samples for block in sound) == pytest.approx(len(pictures) * 48_000 / 25, abs=2048)


@pytest.mark.parametrize(("name", "start_s", "end_s"), [("plain.ts", 3.3, 7.1), ("wrap_once.ts", 4.4, 9.0)])
def test_a_clip_has_every_picture_of_what_was_asked(
    made: Path, tmp_path: Path, name: str, start_s: float, end_s: float
) -> None:
    written = write_clip(cut(made / name, start_s, end_s), tmp_path / "clip")
    counters = [counter(picture) for picture in decoded(written.path)[0]]
    first = round(written.start_us / 40_000)
    assert counters == list(range(first, first + len(counters)))
    assert counters[0] <= start_s * 25
    assert counters[0] % 50 == 0  # a key frame, every two seconds
    assert end_s * 25 - 1 <= counters[-1] < end_s * 25 + 4  # the pictures between two references stay together
    assert written.end_us == (counters[-1] + 1) * 40_000


@pytest.mark.parametrize("name", ["plain.ts", "wrap_once.ts", "audio_muxed_2s5_late.ts", "plain.flv"])
def test_sound_is_in_step_with_the_pictures(made: Path, tmp_path: Path, name: str) -> None:
    """A tone begins with each full second of the pictures' counter."""
    pictures, sound = decoded(write_clip(cut(made / name, 2.5, 4.9), tmp_path / "clip").path)
    loudness, start_s = tone(sound), float(sound[0].time or 0)
    checked = 0
    for picture in pictures:
        first = round((picture.time - start_s - 0.1) * 1000)
        if counter(picture) % 25 == 0 and first >= 0 and first + 300 < len(loudness):
            around = loudness[first : first + 300]
            assert abs(int(np.argmax(around > around.max() / 2)) / 1000 - 0.1) <= 0.04
            checked += 1
    assert checked >= 2


def tone(sound: list[av.AudioFrame]) -> FLOAT32:
    """Return how much of 1 kHz there is in the 20 ms after each millisecond."""
    samples = np.concatenate([block.to_ndarray().mean(axis=0) for block in sound])
    rate = sound[0].sample_rate
    turning = np.cumsum(samples * np.exp(-2j * np.pi * 1000 * np.arange(len(samples)) / rate))
    starts = np.arange(0, len(samples) - rate // 50, rate // 1000)
    return cast(FLOAT32, np.abs(turning[starts + rate // 50] - turning[starts]).astype(np.float32))


def test_a_clip_says_where_it_is_on_the_streams_clock(made: Path, tmp_path: Path) -> None:
    written = write_clip(cut(made / "plain.ts", 3.3, 7.1), tmp_path / "clip")
    with av.open(str(written.path)) as clip:
        said = json.loads(clip.metadata["comment"])
    assert said == {"epoch": 0, "start_us": 2 * US, "end_us": written.end_us}
    assert written == Written(written.path, **said)


# As they are


@pytest.mark.parametrize("name", ["mpeg2_576i25_tff.ts", "vp8_vorbis.webm"])
def test_the_coded_bytes_are_the_streams_own(made: Path, tmp_path: Path, name: str) -> None:
    original: list[bytes] = []
    with av.open(str(made / name)) as stream:
        original = [bytes(packet) for packet in stream.demux(stream.streams.video[0]) if packet.size]
    stretch = cut(made / name, 0.6, 1.6)
    with av.open(str(write_clip(stretch, tmp_path / "clip").path)) as clip:
        copied = [bytes(packet) for packet in clip.demux(clip.streams.video[0]) if packet.size]
    assert copied == [coded.data for coded in stretch.pictures]
    assert set(copied) <= set(original)


def test_mp4_changes_the_framing_of_h264_and_aac_and_nothing_else(made: Path, tmp_path: Path) -> None:
    stretch = cut(made / "plain.ts", 3.3, 7.1)
    written = write_clip(stretch, tmp_path / "clip")
    with av.open(str(written.path)) as clip:
        packets = [packet for packet in clip.demux() if packet.size]
        pictures = [bytes(packet) for packet in packets if packet.stream.type == "video"]
        sound = [bytes(packet) for packet in packets if packet.stream.type == "audio"]
    assert sound == [coded.data[7:] for coded in stretch.sound]  # without its ADTS header
    assert [units_of_mp4(data) for data in pictures] == [units_of_ts(coded.data) for coded in stretch.pictures]


def units_of_mp4(data: bytes) -> list[bytes]:
    units = []
    while data:
        size = int.from_bytes(data[:4])
        units.append(data[4 : 4 + size])
        data = data[4 + size :]
    return units


def units_of_ts(data: bytes) -> list[bytes]:
    return [unit.rstrip(b"\0") for unit in re.split(b"\0\0\1", data) if unit.rstrip(b"\0")]


@pytest.mark.parametrize(("name", "size"), [("rotate90.mp4", (640, 360)), ("sar_4_3.ts", (480, 360))])
def test_how_a_stream_is_shown_is_kept(made: Path, tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    with av.open(str(made / name)) as stream:
        original = next(stream.decode(video=0))
        shape = stream.streams.video[0].sample_aspect_ratio
    written = write_clip(cut(made / name, 1, 2), tmp_path / "clip")
    with av.open(str(written.path)) as clip:
        assert clip.streams.video[0].sample_aspect_ratio == shape
        assert next(clip.decode(video=0)).rotation == original.rotation
        assert (clip.streams.video[0].width, clip.streams.video[0].height) == size


# Faults of the stream


@pytest.mark.parametrize("name", ["restart_640x360p25_480x270p30.ts", "jump_back_600s.ts", "jump_fwd_26h.ts"])
def test_a_clip_never_spans_two_epochs(made: Path, tmp_path: Path, name: str) -> None:
    """Both ask for the same twelve seconds around the cut at six."""
    clips = [decoded(write_clip(cut(made / name, 0, 12, epoch), tmp_path / str(epoch)).path) for epoch in (0, 1)]
    (before, sound_before), (after, sound_after) = clips
    assert [counter(p) for p in before] == list(range(150))
    assert counter(after[0]) in (0, 150)
    assert [counter(p) - counter(after[0]) for p in after] == list(range(len(after)))
    for pictures, sound in clips:
        assert sum(b.samples for b in sound) / 48_000 == pytest.approx(pictures[-1].time, abs=0.3)
    assert sound_before
    assert sound_after


def test_a_picture_that_changed_its_size_is_described_as_it_is_now(made: Path, tmp_path: Path) -> None:
    written = write_clip(cut(made / "restart_640x360p25_480x270p30.ts", 8, 10, epoch=1), tmp_path / "clip")
    with av.open(str(written.path)) as clip:
        assert (clip.streams.video[0].width, clip.streams.video[0].height) == (480, 270)


def test_a_key_frame_that_is_never_decoded_is_placed_by_the_one_before(made: Path) -> None:
    ring = Ring(1000)
    read(made / "plain.ts", ring)
    whole = ring.cut(0, 5 * US, 6 * US)
    for gop in list(ring._gops)[1:]:
        gop.place = None
    assert whole is not None
    assert ring.cut(0, 5 * US, 6 * US) == whole


@pytest.mark.parametrize("name", ["damage_1pct.ts", "missing_pts_4_of_5.ts", "lost_1s5_burst.ts", "bframes.avi"])
def test_of_a_damaged_stream_there_are_clips_too(made: Path, tmp_path: Path, name: str) -> None:
    written = write_clip(cut(made / name, 1, 3), tmp_path / "clip")
    assert 0 < written.end_us - written.start_us < 10 * US
    with av.open(str(written.path)) as clip:
        assert sum(packet.size > 0 for packet in clip.demux(video=0)) > 20


# What is kept


def packets_of(path: Path) -> tuple[av.container.InputContainer, list["av.Packet"]]:  # type: ignore[type-arg]
    stream = av.open(str(path))
    return stream, [packet for packet in stream.demux() if packet.size]


def test_memory_is_flat_however_long_it_goes_on(made: Path) -> None:
    ring, held = Ring(4.0), []
    stream, packets = packets_of(made / "plain.ts")
    with stream:
        for _ in range(60):
            for packet in packets:
                ring.push(packet)
            held.append(ring.bytes_held)
    assert max(held) == held[1] == held[-1]
    assert held[-1] < 0.8 * sum(len(bytes(packet)) + 400 for packet in packets)


def test_a_stream_without_key_frames_cannot_fill_the_memory(made: Path) -> None:
    ring = Ring(1000, most_bytes=200_000)
    stream, packets = packets_of(made / "plain.ts")
    with stream:
        ring.push(next(p for p in packets if p.stream.type == "video"))
        for _ in range(20):
            for packet in packets:
                packet.is_keyframe = False
                ring.push(packet)
                assert ring.bytes_held <= 200_000


def test_the_ring_outlives_its_source(made: Path, tmp_path: Path) -> None:
    ring = Ring(3.0)
    read(made / "plain.ts", ring)  # which closes it
    stretch = ring.cut(0, 8 * US, 9 * US)
    assert stretch is not None
    assert len(decoded(write_clip(stretch, tmp_path / "clip").path)[0]) >= 25
    assert ring.cut(0, 1 * US, 3 * US) is None  # forgotten
    assert ring.cut(0, 60 * US, 61 * US) is None  # never seen
    assert ring.cut(1, 8 * US, 9 * US) is None


def test_a_clip_of_the_very_beginning_starts_there(made: Path) -> None:
    assert cut(made / "plain.ts", -5, 1).start_us == 0


# The disk


def test_a_folder_that_cannot_be_written_is_one_sentence(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClipFault, match=r"file/clip\.mp4: the clip cannot be written: .*\.$"):
        write_clip(cut(made / "plain.ts", 3, 4), tmp_path / "file" / "clip")


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("most_bytes", [0, 10_000, 120_000])
def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(made: Path, tmp_path: Path, most_bytes: int) -> None:
    stretch = cut(made / "plain.ts", 1, 9)
    with small_files(most_bytes), pytest.raises(ClipFault, match=r"the clip cannot be written: .*\.$"):
        write_clip(stretch, tmp_path / "clip")
    assert list(tmp_path.iterdir()) == []
    write_clip(stretch, tmp_path / "clip")  # and the next one may be written again
    assert len(decoded(tmp_path / "clip.mp4")[0]) >= 200


# Asking


class Asked:
    """A ring with ten seconds in it, and what is reported."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.folder = folder
        self.done: list[ClipDone] = []
        self.clips = Clips(filled(path), self.done.append)

    def ask(self, name: str, start_s: float, end_s: float, epoch: int = 0) -> None:
        self.clips.ask(ClipRequest(self.folder / name, epoch, round(start_s * US), round(end_s * US)))

    def names(self, count: int) -> list[str]:
        until = time.monotonic() + 10
        while len(self.done) < count and time.monotonic() < until:
            time.sleep(0.01)
        return [done.path.stem if done.path else "-" for done in self.done]


@pytest.fixture
def asked(made: Path, tmp_path: Path) -> Asked:
    return Asked(made / "plain.ts", tmp_path)


def test_a_clip_is_written_when_its_end_has_passed_and_late_sound_has_come(asked: Asked) -> None:
    asked.ask("a", 1, 4)
    asked.clips.advance(0, round((4 + SETTLE_S) * US) - 1)
    time.sleep(0.1)
    assert asked.names(0) == []
    asked.clips.advance(0, round((4 + SETTLE_S) * US))
    assert asked.names(1) == ["a"]
    asked.ask("b", 2, 3)  # passed already
    assert asked.names(2) == ["a", "b"]
    asked.clips.finish()


def test_the_end_of_an_epoch_or_of_the_stream_writes_what_there_is(asked: Asked) -> None:
    asked.ask("a", 8, 20)
    asked.ask("b", 8, 20, epoch=1)
    asked.clips.advance(0, 10 * US)
    asked.clips.advance(1, 10 * US)
    assert asked.names(1) == ["a"]
    asked.ask("c", 5, 30)
    asked.clips.finish()
    assert sorted(asked.names(3)) == ["-", "a", "c"]
    assert [done.error for done in asked.done if done.error] == [
        f"{asked.folder}/b: no clip was written: that part of the stream is not kept any more, or has never come."
    ]


def test_a_failed_clip_is_reported_and_the_next_one_is_written(asked: Asked) -> None:
    (asked.folder / "file").write_text("")
    asked.ask("file/a", 1, 2)
    asked.ask("b", 1, 2)
    asked.clips.finish()
    assert asked.names(2) == ["-", "b"]
    assert "cannot be written" in (asked.done[0].error or "")


def test_a_slow_disk_does_not_stop_the_reading(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, wait = threading.Event(), write_clip

    def slowly(cut: Cut, stem: Path) -> Written:
        goes_on.wait(20)
        return wait(cut, stem)

    monkeypatch.setattr(clips_module, "write_clip", slowly)
    began = time.monotonic()
    for i in range(20):
        asked.ask(str(i), 1, 2)
    asked.clips.advance(1, 0)
    assert time.monotonic() - began < 5
    assert asked.done == []
    goes_on.set()
    asked.clips.finish()
    assert sorted(asked.names(20)) == sorted(str(i) for i in range(20))  # those that had to wait too


def test_a_disk_that_hangs_does_not_hold_up_the_end(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, wait = threading.Event(), write_clip

    def never(cut: Cut, stem: Path) -> Written:
        goes_on.wait(20)
        return wait(cut, stem)

    monkeypatch.setattr(clips_module, "write_clip", never)
    for i in range(20):
        asked.ask(str(i), 1, 2)
    asked.clips.advance(1, 0)
    began = time.monotonic()
    asked.clips.finish(timeout_s=0.1)
    assert time.monotonic() - began < 5
    refused = [done.error or "" for done in asked.done]
    assert 10 <= len(refused) <= 12  # one is being written, eight wait
    assert all("the disk is too slow" in error for error in refused)
    goes_on.set()
    assert len([name for name in asked.names(20) if name != "-"]) == 20 - len(refused)


# Names


def test_a_spots_clip_is_around_its_action() -> None:
    request = request_for(SPOT, 10, 5, Path("clips"))
    stem = Path("clips") / "1_01-02-05_Ball-out-of-play_0a1b"
    assert request == ClipRequest(stem, 2, round(3715.25 * US), round(3730.25 * US))
    assert pickle.loads(pickle.dumps(request)) == request
    assert request_for(replace(SPOT, media_time=3.0), 10, 5, Path()).start_us == 0


@given(st.text(), st.text(), st.floats(0, 1e6))
def test_a_name_is_safe_on_every_file_system(label: str, id: str, media_time: float) -> None:
    stem = clip_path_stem(Path("clips"), replace(SPOT, label=label, id=id, media_time=media_time))
    assert stem.parent == Path("clips")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,120}", stem.name)


@given(st.lists(st.tuples(st.integers(1, 2), st.floats(0, 300_000)), min_size=2))
def test_names_sort_as_the_match_goes(times: list[tuple[int, float]]) -> None:
    def name(half: int, at_s: float) -> str:
        return clip_path_stem(Path(), replace(SPOT, half=half, media_time=at_s)).name

    by_name = sorted(times, key=lambda time: name(*time))
    assert [(half, int(at_s)) for half, at_s in by_name] == sorted((half, int(at_s)) for half, at_s in times)


@pytest.mark.parametrize(("delay_s", "least_s"), [(5.0, 10 + 5 + 3), (40.0, 10 + 40 + 3), (float("inf"), 100)])
def test_enough_is_kept_for_spots_that_are_said_late(delay_s: float, least_s: float) -> None:
    assert least_s <= keep_s(10, 5, delay_s) < 200
