"""Small recordings, made on the fly, and damage that knows their containers."""

import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from fuzzing.mutations import mutated_bytes, odd_integer, overwritten

_SECONDS, _RATE, _WIDTH, _HEIGHT = 2, 25, 160, 90
_PACKET = 188
_PES = b"\0\0\1"


def make_seeds(folder: Path) -> None:
    """Write recordings of every container that is mutated."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "h264.ts", "mpegts", "libx264", "aac")
    _write(folder / "mpeg2.ts", "mpegts", "mpeg2video", "mp2")
    _write(folder / "h264.mp4", "mp4", "libx264", "aac")
    _write(folder / "fragmented.mp4", "mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"})
    _write(folder / "h264.mkv", "matroska", "libx264", "aac")
    _write(folder / "h264.flv", "flv", "libx264", "aac")
    hls = folder / "hls"
    hls.mkdir(exist_ok=True)
    for name in ("a", "b"):
        (hls / f"{name}.ts").write_bytes((folder / "h264.ts").read_bytes())
    (hls / "index.m3u8").write_text(_PLAYLIST)
    (hls / "master.m3u8").write_text(_MASTER)


_PLAYLIST = """#EXTM3U
#EXT-X-VERSION:6
#EXT-X-TARGETDURATION:2
#EXT-X-MEDIA-SEQUENCE:7
#EXT-X-PLAYLIST-TYPE:VOD
#EXT-X-PROGRAM-DATE-TIME:2025-05-31T19:00:00.000+02:00
#EXTINF:2.000,first
a.ts
#EXT-X-DISCONTINUITY
#EXT-X-PROGRAM-DATE-TIME:2025-05-31T19:00:02.000Z
#EXTINF:2.000,
#EXT-X-BYTERANGE:18800@0
b.ts
#EXT-X-ENDLIST
"""
_MASTER = """#EXTM3U
#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="s",NAME="x",DEFAULT=NO,URI="sub.m3u8"
#EXT-X-STREAM-INF:BANDWIDTH=800000,RESOLUTION=160x90,CODECS="avc1.42c00b,mp4a.40.2",SUBTITLES="s"
index.m3u8
#EXT-X-STREAM-INF:BANDWIDTH=4000000,RESOLUTION=1920x1080,FRAME-RATE=25.000
index.m3u8?big
"""


def _write(path: Path, container: str, pictures: str, sound: str, options: dict[str, str] | None = None) -> None:
    """Write a moving edge and a tone."""
    with av.open(str(path), "w", format=container, options={"fflags": "+bitexact", **(options or {})}) as out:
        slow = {"preset": "ultrafast", "bf": "2", "threads": "1"} if pictures == "libx264" else {"threads": "1"}
        video = cast(av.VideoStream, out.add_stream(pictures, rate=_RATE, options=slow))
        video.width, video.height, video.pix_fmt, video.gop_size = _WIDTH, _HEIGHT, "yuv420p", 12
        video.bit_rate = 150_000
        audio = cast(av.AudioStream, out.add_stream(sound, rate=48_000))
        audio.layout = "stereo"
        heard = iter(range(10**6))
        for i in range(_SECONDS * _RATE):
            light = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
            light[:, (5 * i) % _WIDTH :] = 200
            out.mux(video.encode(av.VideoFrame.from_ndarray(light)))
            while (i + 1) / _RATE > (block := next(heard)) * 1152 / 48_000:
                out.mux(audio.encode(_tone(block)))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))


def _tone(block: int) -> av.AudioFrame:
    times_S = (np.arange(1152) + block * 1152) / 48_000
    samples = np.sin(2 * np.pi * 440 * times_S).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([samples, samples]), format="fltp", layout="stereo")
    frame.sample_rate, frame.time_base, frame.pts = 48_000, Fraction(1, 48_000), block * 1152
    return frame


def damaged(name: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Return a recording with damage that suits its container, or with any."""
    if rng.random() < 0.08:
        other = rng.choice(others)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.choice((0, rng.randrange(len(other) + 1))) :]
    if rng.random() < 0.3:
        return mutated_bytes(data, rng, rng.choice((2, 10, 60)))
    way = {".ts": _damaged_ts, ".mp4": _damaged_mp4, ".flv": _damaged_flv, ".mkv": _damaged_mkv}
    return way.get(Path(name).suffix, mutated_bytes)(data, rng)


def _damaged_ts(data: bytes, rng: random.Random) -> bytes:
    packets = [data[at : at + _PACKET] for at in range(0, len(data), _PACKET)]
    for _ in range(rng.choice((1, 1, 3, 20))):
        if not packets:
            break
        at = rng.randrange(len(packets))
        end = at + rng.choice((1, 1, 5, 50))
        change = rng.randrange(10)
        if change == 0:
            del packets[at:end]
        elif change == 1:
            packets[at:at] = packets[at:end]
        elif change == 2:
            some = packets[at:end]
            rng.shuffle(some)
            packets[at:end] = some
        elif change == 3:
            start = rng.choice((b"\x47\x1f\xff\x10", b"\x47", b""))
            packets.insert(at, start + rng.randbytes(rng.choice((3, 184, 187))))
        elif change == 4:
            packets[at] = overwritten(packets[at], rng.randrange(1, 6), rng.randbytes(rng.choice((1, 2))))
        elif change in (5, 6):
            _change_table(packets, rng)
        elif change in (7, 8):
            _change_times(packets, rng, all_of_them=rng.random() < 0.2)
        else:
            packets[at] = overwritten(packets[at], 4 + rng.randrange(184), odd_integer(rng, 4))
    return b"".join(packets)


def _change_table(packets: list[bytes], rng: random.Random) -> None:
    """Change a PAT, PMT or SDT, and mend its checksum, so that it is believed."""
    tables = [i for i, p in enumerate(packets) if len(p) == _PACKET and p[1] & 0x5F == 0x40 and p[4:5] == b"\0"]
    if not tables:
        return
    at = rng.choice(tables)
    packet = packets[at]
    length = int.from_bytes(packet[6:8], "big") & 0xFFF
    if not 9 <= length <= 176:
        return
    section = bytearray(packet[5 : 5 + 3 + length - 4])
    for _ in range(rng.randint(1, 3)):
        section[rng.randrange(len(section))] = rng.choice((0, 0xFF, 0x1B, 0x02, 0xE1, rng.randrange(256)))
    whole = bytes(section) + _crc32(section).to_bytes(4, "big")
    changed = overwritten(packet, 5, whole)
    for i in tables if rng.random() < 0.5 else [at]:
        if packets[i][5:] == packet[5:]:
            packets[i] = packets[i][:5] + changed[5:]


def _crc32(data: bytes | bytearray) -> int:
    """Return MPEG's checksum."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C1_1DB7 if crc & 0x8000_0000 else crc << 1) & 0xFFFF_FFFF
    return crc


def _change_times(packets: list[bytes], rng: random.Random, *, all_of_them: bool) -> None:
    """Change the presentation and decoding times of some packets of elementary streams."""
    shift = rng.choice((1, -1, 3600, 90_000, -90_000, 10**6, 2**31, 2**32, 2**33 - 90_000, rng.randrange(2**33)))
    starts = [i for i, p in enumerate(packets) if len(p) == _PACKET and p[1] & 0x40 and _PES in p[4:]]
    if not starts:
        return
    first = rng.choice(starts)
    for i in [s for s in starts if s >= first] if all_of_them else [first]:
        packet = packets[i]
        at = packet.index(_PES, 4)
        if at + 19 > _PACKET:
            continue
        for field, flag in ((at + 9, 0x80), (at + 14, 0x40)):
            if packet[at + 7] & flag:
                old = packet[field : field + 5]
                ticks = (_ticks(old) + shift) % 2**33
                packet = overwritten(packet, field, _stamp(old[0] >> 4, ticks))
        packets[i] = packet


def _ticks(field: bytes) -> int:
    return (field[0] >> 1 & 7) << 30 | field[1] << 22 | field[2] >> 1 << 15 | field[3] << 7 | field[4] >> 1


def _stamp(prefix: int, ticks: int) -> bytes:
    high, middle, low = ticks >> 30, ticks >> 15 & 0x7FFF, ticks & 0x7FFF
    return bytes((prefix << 4 | high << 1 | 1, middle >> 7, (middle << 1 | 1) & 0xFF, low >> 7, (low << 1 | 1) & 0xFF))


_HOLDING = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts", b"mvex", b"udta")


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield where the boxes of an MP4 begin and how long they are, inner ones too."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        if not 8 <= size <= end - start:
            return
        yield start, size
        if kind in _HOLDING:
            yield from _boxes(data, start + 8, start + size)
        start += size


def _damaged_mp4(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 3))):
        boxes = list(_boxes(data, 0, len(data)))
        if not boxes:
            return mutated_bytes(data, rng)
        at, size = rng.choice(boxes)
        change = rng.randrange(7)
        if change == 0:
            data = data[:at] + data[at + size :]
        elif change == 1:
            data = data[: at + size] + data[at : at + size] + data[at + size :]
        elif change == 2:
            data = overwritten(data, at, odd_integer(rng, 4))
        elif change == 3:
            data = overwritten(data, at + 4, rng.choice((b"free", b"moov", b"stco", b"skip", rng.randbytes(4))))
        else:
            data = overwritten(data, at + 8 + rng.randrange(max(1, min(size - 8, 200))), odd_integer(rng, 4))
    return data


def _damaged_flv(data: bytes, rng: random.Random) -> bytes:
    """Change the headers of tags: kind, size, timestamp."""
    tags, at = [], 13
    while at + 11 <= len(data):
        tags.append(at)
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    for _ in range(rng.choice((1, 3, 10))):
        at = rng.choice(tags or [0])
        field, size = rng.choice(((0, 1), (1, 3), (4, 3), (4, 4), (8, 3), (11, 1), (12, 1), (13, 3)))
        data = overwritten(data, at + field, rng.randbytes(size) if rng.random() < 0.5 else odd_integer(rng, size))
    return data


def _damaged_mkv(data: bytes, rng: random.Random) -> bytes:
    """Change the headers, which lie in front, and the starts of clusters."""
    for _ in range(rng.choice((1, 3, 10))):
        near = rng.choice((0, data.find(b"\x1f\x43\xb6\x75"), data.find(b"\x16\x54\xae\x6b")))
        at = max(near, 0) + rng.randrange(400)
        data = overwritten(data, at, rng.randbytes(1) if rng.random() < 0.6 else odd_integer(rng, rng.choice((2, 4))))
    return data
