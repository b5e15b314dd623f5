"""How far a run is."""

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """How far a run is; what the command, the metrics and the status tell of it.

    Attributes:
        shed: seconds never processed, since the engines were late.
        openings: how often a source was opened.
        clips: clips written.
        skipped: pictures left out, to keep up.
        spots: confirmed words.
        retracted: the other final words.
        provisional: words said before they were settled.
        forced: final words that a deadline forced.
        missed: final words that came after their deadline by the wall clock.
        open: whether the source gives seconds now, and `why_not_open`, if there is a reason.
    """

    seconds: int = 0
    shed: int = 0
    skipped: int = 0
    openings: int = 0
    clips: int = 0
    spots: int = 0
    retracted: int = 0
    provisional: int = 0
    forced: int = 0
    missed: int = 0
    started_mono_s: float = 0.0
    last_mono_s: float = 0.0
    open: bool = False
    why_not_open: str | None = None

    @property
    def factor(self) -> float:
        """Media seconds processed per second of wall clock, since the first one was done."""
        elapsed = self.last_mono_s - self.started_mono_s
        return (self.seconds - 1) / elapsed if elapsed > 0 else 0.0

    def statistics(self) -> dict[str, float]:
        """Return what the `stopped` status says of the run."""
        return {
            "seconds": self.seconds,
            "seconds_shed": self.shed,
            "frames_skipped": self.skipped,
            "source_openings": self.openings,
            "clips": self.clips,
            "spots": self.spots,
            "spots_retracted": self.retracted,
            "provisional_words": self.provisional,
            "decisions_forced": self.forced,
            "deadlines_missed": self.missed,
            "real_time_factor": round(self.factor, 3),
        }

    def __str__(self) -> str:
        return (
            f"{self.seconds} seconds at {self.factor:.1f} times the speed of life, {self.spots} spots confirmed, "
            f"{self.retracted} retracted, {self.provisional} provisional words; {self.forced} decisions forced by a "
            f"deadline, {self.missed} deadlines missed; "
            f"{self.shed} seconds shed, {self.skipped} pictures skipped to keep up; "
            f"source opened {self.openings} {'time' if self.openings == 1 else 'times'}, {self.clips} clips written"
        )
