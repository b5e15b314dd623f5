"""Spots for tests: one, and any."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import strategies as st

from engines.bundle import BundleName
from engines.decider import Spot
from engines.labels import SOCCERNET_LABELS

SAID = datetime(2025, 5, 31, 19, 0, 0, 123456, UTC)
SPOT = Spot(
    id="a1",
    stream="final",
    half=1,
    epoch=0,
    label="Goal",
    media_time=63.25,
    confidence=0.75,
    emitted_at=71.0,
    latency={"grid": 0.75, "look_ahead": 4.0, "hold": 3.0, "compute": 0.04},
    flags=("no-audio",),
    utc=SAID - timedelta(seconds=8),
    clock="rtcp",
    pts=5692500,
    bundle=BundleName("demo", "1f" * 32),
)

seconds = st.floats(0, 1e6)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
instants = st.datetimes(
    datetime(1990, 1, 1),
    datetime(2090, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3, minutes=-30)), timezone(timedelta(hours=9))]),
)
spots = st.builds(
    Spot,
    id=names,
    stream=names,
    half=st.integers(1, 2),
    epoch=st.integers(0, 2**40),
    label=st.sampled_from(SOCCERNET_LABELS) | names,
    media_time=seconds,
    confidence=st.floats(0, 1),
    emitted_at=seconds,
    state=st.sampled_from(["provisional", "confirmed", "retracted"]),
    revision=st.integers(1, 100),
    latency=st.dictionaries(st.sampled_from(["grid", "look_ahead", "hold", "compute"]), st.floats(-10, 600)),
    flags=st.lists(names, max_size=4).map(tuple),
    utc=st.none() | instants,
    clock=st.none() | st.sampled_from(["rtcp", "prft", "hls", "arrival"]),
    pts=st.none() | st.integers(0, 2**33 - 1),
    bundle=st.none() | st.builds(BundleName, names, names),
)
