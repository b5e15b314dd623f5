"""The clocks of RTP: each track's own, and the sender's wall clock that its RTCP reports tie them to.

In: timestamps of pictures and sound, arrival times, sender reports. Out: where sound is on the pictures' clock, and
when a picture was taken. RTP says nothing about how two tracks belong together; until both have reported, their arrival
does. Then sound moves once, by as much as it was late on its way (usually less than 0.2 s), and again only if the
sender's clocks drift apart by more than 40 ms.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from statistics import median_low

from streamer.sources.base import Wall

log = logging.getLogger("touchline.webrtc")

PICTURE_RATE_HZ = 90_000
PICTURE_BASE = Fraction(1, PICTURE_RATE_HZ)
WRAPS_AT = 1 << 32

_US = 1_000_000
_NTP_TO_UNIX_US = 2_208_988_800 * _US
_NTP_ERA_US = (1 << 32) * _US
_FOREIGN_US = 60 * _US
"""A report further off its track's newest timestamp speaks of another stream (a retransmission's, say)."""
_DAY_US = 86_400 * _US
_DRIFT_US = 40_000
_REPORTS = 9
"""Reports whose median decides; single ones are off by as much as the sender was busy."""


class TrackClock:
    """One track's RTP clock, unrolled: it rises beyond 2^32.

    Args:
        rate_hz: its ticks a second.
    """

    def __init__(self, rate_hz: int) -> None:
        self.rate_hz = rate_hz
        self.newest: int | None = None
        self.arrived_us = 0
        self._reported: tuple[int, int] | None = None  # ticks, and the sender's clock at them

    def came(self, rtp: int, arrived_us: int) -> int:
        """Take a frame's timestamp; return it unrolled."""
        self.newest = ticks = self._unroll(rtp)
        self.arrived_us = arrived_us
        return ticks

    def report(self, ntp: int, rtp: int) -> bool:
        """Take a sender report (NTP in units of 2^-32 s); return whether it makes sense."""
        if self.newest is None or ntp == 0:
            return False
        ticks = self._unroll(rtp)
        if abs(self.us(ticks - self.newest)) > _FOREIGN_US:
            return False
        self._reported = (ticks, ntp * _US >> 32)
        return True

    def us(self, ticks: int) -> int:
        """Return ticks in microseconds."""
        return ticks * _US // self.rate_hz

    def sender_us(self, ticks: int) -> int | None:
        """Return what the sender's clock showed at a timestamp, microseconds since 1900; None before a report."""
        return None if self._reported is None else self._reported[1] + self.us(ticks - self._reported[0])

    def _unroll(self, rtp: int) -> int:
        if self.newest is None:
            return rtp % WRAPS_AT
        return self.newest + (rtp - self.newest + WRAPS_AT // 2) % WRAPS_AT - WRAPS_AT // 2


class StreamClock:
    """The clock of a stream: its pictures'.

    Args:
        utc_us: the wall clock, microseconds since 1970.
    """

    def __init__(self, utc_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._pictures = TrackClock(PICTURE_RATE_HZ)
        self._sound: TrackClock | None = None
        self._shift_us: int | None = None  # from sound's own clock to the pictures'
        self._corrected = False
        self._shifts: deque[int] = deque(maxlen=_REPORTS)
        self._utc_us = utc_us

    def picture(self, rtp: int, arrived_us: int) -> Wall | None:
        """Take a picture's timestamp; return when it was taken, once the sender has said so."""
        sender_us = self._pictures.sender_us(self._pictures.came(rtp, arrived_us))
        if sender_us is None:
            return None
        now_us = self._utc_us()
        age_us = (now_us + _NTP_TO_UNIX_US - sender_us + _NTP_ERA_US // 2) % _NTP_ERA_US - _NTP_ERA_US // 2
        # a sender without a wall clock may report its own uptime
        return Wall(now_us - age_us, "rtcp") if abs(age_us) < _DAY_US else None

    def sound(self, rtp: int, rate_hz: int, arrived_us: int) -> int | None:
        """Take the timestamp of a block of sound; return it unrolled, or None while no picture has come."""
        if self._sound is None or self._sound.rate_hz != rate_hz:
            self._sound = TrackClock(rate_hz)
            self._shift_us, self._corrected = None, False
            self._shifts.clear()
        ticks = self._sound.came(rtp, arrived_us)
        if self._pictures.newest is None:
            return None
        if self._shift_us is None:
            late_us = arrived_us - self._pictures.arrived_us
            self._shift_us = self._pictures.us(self._pictures.newest) + late_us - self._sound.us(ticks)
        return ticks

    def on_pictures_clock(self, ticks: int) -> int:
        """Return sound's unrolled timestamp as a picture's would be, rolled again."""
        assert self._sound is not None
        assert self._shift_us is not None
        return (self._sound.us(ticks) + self._shift_us) * PICTURE_RATE_HZ // _US % WRAPS_AT

    def report_on_pictures(self, ntp: int, rtp: int) -> None:
        """Take a sender report of the pictures' track."""
        if self._pictures.report(ntp, rtp):
            self._compare()

    def report_on_sound(self, ntp: int, rtp: int) -> None:
        """Take a sender report of the sound's track."""
        if self._sound is not None and self._sound.report(ntp, rtp):
            self._compare()

    def _compare(self) -> None:
        """Move sound to where the reports want it: by the first ones at once, then only if they keep saying so."""
        pictures, sound = self._pictures, self._sound
        if sound is None or sound.newest is None or pictures.newest is None or self._shift_us is None:
            return
        pictures_us, sound_us = pictures.sender_us(pictures.newest), sound.sender_us(sound.newest)
        if pictures_us is None or sound_us is None:
            return
        self._shifts.append(pictures.us(pictures.newest) - pictures_us - sound.us(sound.newest) + sound_us)
        wanted_us = median_low(self._shifts)
        by_us = wanted_us - self._shift_us
        if self._corrected and (len(self._shifts) < _REPORTS or abs(by_us) <= _DRIFT_US):
            return
        self._shift_us, self._corrected = wanted_us, True
        self._shifts.clear()
        log.info("Sound moves by %+d ms on the pictures' clock, by the sender's reports.", by_us // 1000)
