"""What is wrong with a stream, and what can be done about it.

In: what a look at it has found. Out: problems, the worst first, each with a line of advice. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from engines.bundle import Manifest
from streamer.probe.looking import UNEVEN, Seen

_LONG_GOP_S = 5.0
_LATE_SOUND_S = 1.0
_SOUND_BEGINS_S = 0.5
_SILENT = 1e-4
_HEARD = 0.9
_DARK = 20.0
_STILL_S = 3.0
_BURST_S = 1.5
_OLD_S = 10.0
_ENOUGH_SHARE = 0.8
_LEAST_S = 2.0  # of media, before its absence or sameness says anything


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong.

    Attributes:
        name: for machines; stable.
        what: a sentence.
        advice: what to do about it, in a sentence.
    """

    name: str
    what: str
    advice: str


def problems(seen: Seen, manifest: Manifest, bundle_share: float | None = None) -> list[Problem]:
    """Return what is wrong with a stream.

    Args:
        seen: what was found.
        manifest: of the bundle that is to watch it.
        bundle_share: how long its engines take for a second of media, in seconds; None if that was not measured.
    """
    return [
        *_of_reading(seen),
        *_of_pictures(seen, manifest),
        *_of_sound(seen),
        *_of_time(seen),
        *_of_machine(seen, bundle_share),
    ]


def _of_reading(seen: Seen) -> Iterator[Problem]:
    packets, pictures = seen.packets, seen.packets.pictures
    errors = max(0, seen.decode_errors - packets.before_key)
    damage = [f"{seen.corrupt} of {seen.pictures} pictures show damage"] if seen.corrupt else []
    damage += [f"{errors} packets could not be decoded"] if errors else []
    if damage:
        yield Problem(
            "damaged",
            f"{', and '.join(damage)}.",
            "Look for losses on the way: RTSP over TCP, or SRT with a higher latency, repairs them.",
        )
    if packets.without_pts:
        yield Problem(
            "no-timestamps",
            f"{packets.without_pts} of {pictures} pictures have no timestamp.",
            "Have the encoder or muxer write one for each picture; until then they are assumed to be evenly spaced.",
        )
    if seen.info.recording and packets.before_key:
        yield Problem(
            "no-key-frame-first",
            f"It begins with {packets.before_key} pictures that cannot be decoded, since a key frame is missing.",
            "Cut recordings at a key frame; here the match begins with the first one.",
        )
    gop_s = max(packets.gop_s or 0.0, packets.since_key_s)
    if gop_s > _LONG_GOP_S:
        least = "at least " if gop_s == packets.since_key_s else ""
        yield Problem(
            "long-gop",
            f"Key frames are {least}{gop_s:.1f} s apart, so joining, and going on after a fault, takes as long.",
            "Set the encoder's key frame interval to 2 s.",
        )


def _of_pictures(seen: Seen, manifest: Manifest) -> Iterator[Problem]:
    wanted, size = manifest.pictures.rate, seen.sizes[0] if seen.sizes else (seen.info.width, seen.info.height)
    if len(seen.sizes) > 1:
        yield Problem(
            "size-changes",
            f"The picture changes its size: {', '.join(f'{w}x{h}' for w, h in seen.sizes[:4])}.",
            "That is followed; if nobody means it, look for an encoder that restarts or adapts.",
        )
    if seen.fps is not None and seen.fps < wanted * 0.95:
        yield Problem(
            "low-rate",
            f"The picture rate is {seen.fps:.3g} a second, and the bundle was trained to see {wanted}.",
            f"Send at least {wanted} a second; until then each picture stands for several.",
        )
    trusted = not (seen.corrupt or seen.packets.without_pts or seen.repairs.get("reordered"))
    if seen.uneven > UNEVEN and trusted:
        yield Problem(
            "variable-rate",
            f"The picture rate varies: {seen.uneven:.0%} of the steps are unlike the others.",
            "That does no harm as long as there are enough pictures; a constant rate is safer.",
        )
    if size[1] < manifest.pictures.height or size[0] < manifest.pictures.width:
        yield Problem(
            "small-picture",
            f"The picture is {size[0]}x{size[1]}, and the bundle was trained on "
            f"{manifest.pictures.width}x{manifest.pictures.height}.",
            "Send a larger one.",
        )
    if seen.seconds >= _LEAST_S and seen.brightest < _DARK:
        yield Problem("black", "The picture is black.", "Look whether the right feed is connected, and on air.")
    elif seen.still_s >= _STILL_S:
        yield Problem(
            "frozen",
            f"The picture did not change for {seen.still_s:.0f} s.",
            "Look whether it is a slate, or the feed has frozen; nothing can be spotted in it.",
        )


def _of_sound(seen: Seen) -> Iterator[Problem]:
    packets = seen.packets
    others = [s for s in seen.streams if s.type == "audio" and not s.used]
    elsewhere = f" Other sound streams there are: {len(others)}." if others else ""
    begins_s = packets.sound_begins_s
    if seen.info.audio is None:
        advice = "Send the stadium's sound or the commentary along: the bundle hears too, and is worse without."
        yield Problem("no-sound", "There is no sound that could be used.", advice)
        return
    if begins_s is None:
        advice = "Look whether the encoder gets any: the bundle hears too, and is worse without."
        yield Problem("no-sound", f"Sound is announced, but in {seen.media_s:.1f} s none came.{elsewhere}", advice)
        return
    if begins_s > _SOUND_BEGINS_S:
        advice = "That is the recording's own; the seconds before are watched without sound."
        yield Problem("sound-begins-later", f"Sound begins {begins_s:.1f} s after the picture.", advice)
    late_s, after_s = packets.sound_late_s or 0.0, seen.media_s - max(0.0, begins_s)
    if late_s > _LATE_SOUND_S:
        yield Problem(
            "late-sound",
            f"Sound comes {late_s:.1f} s after the pictures of its time.",
            "That is waited for, and every spot comes as much later; lower the muxer's interleaving or sound delay.",
        )
    elif after_s >= _LEAST_S and seen.seconds and seen.heard < _HEARD * after_s / seen.media_s:
        yield Problem(
            "sound-gaps",
            f"Sound is there {seen.heard:.0%} of the time.",
            "Those seconds are watched without sound, and flagged; look for losses or an encoder that pauses.",
        )
    if seen.seconds >= _LEAST_S and seen.heard > 0.1 and seen.loudest < _SILENT:
        advice = "Connect the right sound to the encoder; a stream of several is taken that FFmpeg finds best."
        yield Problem("silent-sound", f"The sound is silent.{elsewhere}", advice)


def _of_time(seen: Seen) -> Iterator[Problem]:
    repairs = seen.repairs
    jumps, odd = repairs.get("discontinuity", 0), repairs.get("outlier", 0) - repairs.get("discontinuity", 0)
    if jumps:
        yield Problem(
            "timestamps-jump",
            f"Timestamps jump {'once' if jumps == 1 else f'{jumps} times'}; the match's clock goes on.",
            "Look for an encoder that restarts, or a splice; no spot rests on both sides of one.",
        )
    if odd > 0:
        yield Problem(
            "bad-timestamps",
            f"{odd} of the timestamps had to be repaired.",
            "Look for losses, or for a muxer that is at fault.",
        )
    if repairs.get("reordered") and not seen.corrupt:
        yield Problem(
            "timestamps-go-back",
            f"{repairs['reordered']} pictures have timestamps that go back.",
            "The container has none of its own (AVI); prefer MPEG-TS, MP4 or Matroska.",
        )
    if repairs.get("sound_rebased"):
        yield Problem(
            "sound-on-another-clock",
            "The timestamps of sound are far from the pictures'.",
            "The two are put together as they come, and may be out of step; have one muxer write both.",
        )


def _of_machine(seen: Seen, bundle_share: float | None) -> Iterator[Problem]:
    if not seen.info.recording and seen.packets.longest_wait_s > _BURST_S:
        yield Problem(
            "bursts",
            f"It comes in bursts, with up to {seen.packets.longest_wait_s:.1f} s of nothing between them.",
            "Shorter segments, or RTSP or SRT instead of HLS, make spots come sooner.",
        )
    if seen.age_s is not None and seen.age_s > _OLD_S:
        yield Problem(
            "old",
            f"By its own clock it is {seen.age_s:.0f} s old when it comes.",
            "Take it nearer to the encoder, if spots are to be in time; or set the sender's clock.",
        )
    if decode_share(seen) > _ENOUGH_SHARE or (bundle_share or 0.0) > _ENOUGH_SHARE:
        yield Problem(
            "slow-machine",
            "This machine does not keep up with it; live would leave out pictures and seconds.",
            "Send fewer pixels or pictures, or take a faster machine.",
        )


def decode_share(seen: Seen) -> float:
    """Return how much of a processor core reading, decoding and resizing take."""
    return seen.cpu_s / seen.media_s if seen.media_s > 0 else 0.0
