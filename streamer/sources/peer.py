"""One WebRTC connection that we receive from, through aiortc.

In: an offer, or an answer to ours. Out: frames, handed over as they are decoded. Promise: both tracks are read whether
anybody wants their frames or not, since aiortc's own queues have no bound; when decoding falls behind by two seconds,
pictures are left out up to the next key frame, which the sender is asked for.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from fractions import Fraction
from typing import Any, cast

from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription, candidate_from_sdp
from av import AudioFrame, VideoFrame

from streamer.sources.base import Frame, StreamInfo
from streamer.sources.handover import Handover
from streamer.sources.picture import AvPicture, plausible
from streamer.sources.rtptime import PICTURE_BASE, WRAPS_AT, StreamClock
from streamer.sources.sound import ToMono

log = logging.getLogger("touchline.webrtc")

NO_NETWORK = "this machine has no network address but loopback, and WebRTC needs one"
BROKEN_SDP = (ValueError, LookupError, AssertionError, TypeError, AttributeError, StopIteration)
"""What aiortc raises when a description cannot be understood."""

_MOST_ENCODED = 50
"""Encoded pictures that may wait for the decoder: two seconds."""
_ASK_AGAIN_S = 0.5
_CLOSE_S = 3.0
_LAST_FRAMES_S = 1.0
_HEARD_S = 3.0
_CHEAPEST_FIRST = ("video/h264", "video/vp8", "video/rtx")
"""Measured at 720p and 4 Mbit/s: 2.7 ms a picture for H.264, 3.5 ms for VP8."""


class Peer:
    """Receives one video and, if there is any, one sound track.

    Args:
        handover: takes the frames.
        gone: told once when the connection has ended, with True if it failed and False if the other side said goodbye.
    """

    def __init__(self, handover: Handover, gone: Callable[["Peer", bool], None]) -> None:
        self._handover, self._gone = handover, gone
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("track", self._start)
        self._connection.on("connectionstatechange", self._state_changed)
        self._clock = StreamClock()
        self._gate: Gate | None = None
        self._hears = self._failed = False
        self._readers: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self.info: StreamInfo | None = None
        self.heard_mono_s = time.monotonic()

    @property
    def sends_video(self) -> bool:
        """Whether the other side has agreed to send pictures."""
        return any(r.track is not None and r.track.kind == "video" for r in self._connection.getReceivers())

    async def answer(self, offer: str) -> str:
        """Return our answer, with all our candidates.

        Raises:
            BROKEN_SDP: the offer cannot be understood.
            aiortc.exceptions.OperationError: it has no codec that we have.
        """
        self._receive("video")
        await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self._connection.setLocalDescription()
        return self._connection.localDescription.sdp

    async def offer(self, *kinds: str) -> str:
        """Return our offer to receive these kinds, with all our candidates."""
        for kind in kinds:
            self._receive(kind)
        await self._connection.setLocalDescription()
        return self._connection.localDescription.sdp

    async def accept(self, answer: str) -> None:
        """Take the answer to our offer.

        Raises:
            BROKEN_SDP: it cannot be understood.
            aiortc.exceptions.OperationError: it has no codec that we have.
        """
        await self._connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def add_candidate(self, line: str, mid: str) -> None:
        """Take a candidate (`candidate:…`) that came later.

        Raises:
            BROKEN_SDP: it cannot be understood.
        """
        candidate = candidate_from_sdp(line.removeprefix("candidate:"))
        candidate.sdpMid = mid
        await self._connection.addIceCandidate(candidate)

    def skip(self) -> None:
        """Leave out pictures up to the next key frame; from any thread."""
        if self._gate is not None:
            self._gate.skipping = True

    async def close(self) -> None:
        """End it; safe to call twice."""
        await self._end()

    def _receive(self, kind: str) -> None:
        transceiver = self._connection.addTransceiver(kind, "recvonly")
        if kind == "video":
            known = RTCRtpReceiver.getCapabilities("video")
            assert known is not None
            transceiver.setCodecPreferences(
                sorted(known.codecs, key=lambda c: _CHEAPEST_FIRST.index(c.mimeType.lower()))
            )

    def _start(self, track: MediaStreamTrack) -> None:
        """Read a track that has been agreed on; of each kind the first."""
        receiver = next(r for r in self._connection.getReceivers() if r.track is track)
        if track.kind == "video" and self._gate is None:
            self._gate = Gate(self._handover)
            self._gate.stand_before(receiver)
            hear_reports(receiver, self._clock.report_on_pictures)
            ice = receiver.transport.transport
            ice.on("statechange", lambda: self._ice_changed(ice.state))
            live_on_while_heard(receiver, lambda: time.monotonic() - self.heard_mono_s < _HEARD_S)
            self._read(self._pictures(track, receiver))
        elif track.kind == "audio" and not self._hears:
            self._hears = True
            hear_reports(receiver, self._clock.report_on_sound)
            self._read(self._sound(track, receiver))

    def _read(self, reading: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(reading)
        task.add_done_callback(self._read_to_the_end)
        self._readers.add(task)

    def _read_to_the_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (bug := task.exception()) is not None:
            self._handover.end(bug)

    async def _pictures(self, track: MediaStreamTrack, receiver: RTCRtpReceiver) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                self._take_picture(cast(VideoFrame, await track.recv()), rtp_origin(receiver))
        self._end()  # whoever sends no more pictures has gone

    def _take_picture(self, frame: VideoFrame, origin: int) -> None:
        self.heard_mono_s = arrived_s = time.monotonic()
        if not plausible(frame):
            self._handover.count(decode_errors=1)
            return
        pts, wall = frame.pts, None
        if pts is not None:
            pts = (pts + origin) % WRAPS_AT
            wall = self._clock.picture(pts, round(arrived_s * 1e6))
        if self.info is None:
            self.info = self._describe(frame)
            self._handover.opened(self.info)
        picture = AvPicture(frame)
        self._handover.put(Frame(pts, PICTURE_BASE, picture, None, arrived_s, frame.is_corrupt, WRAPS_AT, wall))

    async def _sound(self, track: MediaStreamTrack, receiver: RTCRtpReceiver) -> None:
        to_mono = ToMono()
        with contextlib.suppress(MediaStreamError):
            while True:
                self._take_sound(cast(AudioFrame, await track.recv()), rtp_origin(receiver), to_mono)

    def _take_sound(self, frame: AudioFrame, origin: int, to_mono: ToMono) -> None:
        self.heard_mono_s = arrived_s = time.monotonic()
        rate_hz = (frame.time_base or Fraction(1, frame.sample_rate)).denominator
        if frame.pts is None:
            return
        ticks = self._clock.sound(frame.pts + origin, rate_hz, round(arrived_s * 1e6))
        if ticks is None:
            return
        frame.pts, frame.time_base = ticks, Fraction(1, rate_hz)
        errors = to_mono.errors
        for block in to_mono.push(frame):
            if block.pts is not None:
                pts = self._clock.on_pictures_clock(block.pts)
                self._handover.put(replace(block, pts=pts, time_base=PICTURE_BASE, wraps_at=WRAPS_AT))
        self._handover.count(decode_errors=to_mono.errors - errors)

    def _describe(self, frame: VideoFrame) -> StreamInfo:
        video, audio = self.codecs("video"), self.codecs("audio")
        return StreamInfo(
            container="webrtc",
            video=(self._gate and self._gate.codec) or video[0],
            audio=audio[0] if self._hears and audio else None,
            width=frame.width,
            height=frame.height,
            rate_fps=None,
            duration_s=None,
            recording=False,
        )

    def codecs(self, kind: str) -> list[str]:
        """Return the names of what has been agreed on, the preferred one first ("rtx" among them: retransmission)."""
        ends = (self._connection.localDescription, self._connection.remoteDescription)
        answer = next((end.sdp for end in ends if end is not None and end.type == "answer"), "")
        agreed = [media for media in SessionDescription.parse(answer).media if media.kind == kind]
        return [codec.name.lower() for media in agreed for codec in media.rtp.codecs]

    def _ice_changed(self, state: str) -> None:
        self._failed |= state == "failed"  # the connection itself goes from "connected" to "closed", whatever happened

    def _state_changed(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self._end()

    def _end(self) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._finish())
        return self._ending

    async def _finish(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connection.close(), _CLOSE_S)
        if self._readers:
            _, unfinished = await asyncio.wait(self._readers, timeout=_LAST_FRAMES_S if self.info else 0)
            for reader in unfinished:
                reader.cancel()
        self._gone(self, self._failed)


class Gate(queue.Queue[Any]):
    """Takes the place of aiortc's queue of encoded frames before the decoder, and lets pictures be left out there."""

    def __init__(self, handover: Handover) -> None:
        super().__init__()
        self.codec: str | None = None
        self.skipping = False
        self._handover = handover
        self._errors = _CountedErrors(handover)
        self._asked_mono_s = 0.0

    def stand_before(self, receiver: RTCRtpReceiver) -> None:
        """Take the place, if this aiortc has it."""
        if _inside(receiver, "decoder_queue") is not None:
            setattr(receiver, _mangled("decoder_queue"), self)
        if _inside(receiver, "decoder_error") is not None:
            setattr(receiver, _mangled("decoder_error"), self._errors)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Let a frame through, or not; None, which ends the decoder, always."""
        if item is not None:
            codec, frame = item
            self.codec = codec.name.lower()
            self.skipping |= self.qsize() >= _MOST_ENCODED
            if self.skipping and not self._goes_on_with(frame.data):
                self._handover.count(skipped=1)
                return
            self.skipping = False
        super().put(item, block, timeout)

    def _goes_on_with(self, data: bytes) -> bool:
        if self.qsize() >= _MOST_ENCODED // 2:
            return False
        if is_key_picture(self.codec or "", data):
            return True
        now_s = time.monotonic()
        if now_s - self._asked_mono_s > _ASK_AGAIN_S:
            self._asked_mono_s = now_s
            self._errors.ask()
        return False


class _CountedErrors(threading.Event):
    """Takes the place of the event by which aiortc's decoder says that it needs a key picture."""

    def __init__(self, handover: Handover) -> None:
        super().__init__()
        self._handover = handover

    def set(self) -> None:
        """Count what could not be decoded."""
        self._handover.count(decode_errors=1)
        self.ask()

    def ask(self) -> None:
        """Let aiortc ask the sender for a key picture, on the next packet."""
        super().set()


def is_key_picture(codec: str, data: bytes) -> bool:
    """Return whether decoding can start with a picture; H.264 as Annex B."""
    if codec == "vp8":
        return len(data) > 0 and data[0] & 1 == 0
    parts = data.split(b"\0\0\1")[1:]
    return any(part[:1] and part[0] & 0x1F in (5, 7) for part in parts)


def rtp_origin(receiver: RTCRtpReceiver) -> int:
    """Return the RTP timestamp that aiortc gives out as 0; 0 if this aiortc does not say."""
    origin = getattr(_inside(receiver, "timestamp_mapper"), "_origin", None)
    return origin if isinstance(origin, int) else 0


def hear_reports(receiver: RTCRtpReceiver, take: Callable[[int, int], None]) -> None:
    """Have the NTP and RTP timestamps of every sender report told; not if they cannot be matched with frames."""
    handle = getattr(receiver, "_handle_rtcp_packet", None)
    if handle is None or not hasattr(_inside(receiver, "timestamp_mapper"), "_origin"):
        return

    async def handle_and_tell(packet: Any) -> None:
        sent = getattr(packet, "sender_info", None)
        if sent is not None:
            take(sent.ntp_timestamp, sent.rtp_timestamp)
        await handle(packet)

    setattr(receiver, "_handle_rtcp_packet", handle_and_tell)  # noqa: B010


def live_on_while_heard(receiver: RTCRtpReceiver, heard: Callable[[], bool]) -> None:
    """Keep a connection that media come through, though nobody answers ICE's questions for consent: FFmpeg does not."""
    ice = receiver.transport.transport
    inside = getattr(ice, "_connection", None)
    close, ask = getattr(inside, "close", None), getattr(inside, "query_consent", None)
    if close is None or ask is None or not hasattr(inside, "_query_consent_task"):
        return

    async def close_unless_heard() -> None:
        if ice.state == "completed" and heard():  # so it is lack of consent, and no decision of ours
            setattr(inside, "_query_consent_task", asyncio.ensure_future(ask()))  # noqa: B010
        else:
            await close()

    setattr(inside, "close", close_unless_heard)  # noqa: B010


def _inside(receiver: RTCRtpReceiver, name: str) -> Any:
    """Return what aiortc keeps to itself; None if this version has it no longer, and then we do without."""
    return getattr(receiver, _mangled(name), None)


def _mangled(name: str) -> str:
    return f"_RTCRtpReceiver__{name}"
