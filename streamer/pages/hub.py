"""What pages are told, and what a page that is opened late, or comes back, has missed.

In: messages and pictures, on the event loop. Out: text for each page as server-sent events, pictures for each viewer.
Promise: whoever sends never waits; a slow page loses the oldest, and is told so; memory is bounded.
"""

import asyncio
import json
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from streamer.payload import ClipMessage, Message, ScoresMessage, SpotMessage

RETAINED = ("status", "clock", "stats")
"""Kinds of which only the newest counts."""

_MOST_SPOTS = 1_000
_MOST_ROWS = 7_200
"""Two hours of scores, at a row a second."""
_ROWS_AN_EVENT = 1_000
_MOST_WAITING = 1_000
_LEAST_SCORE = 0.01
"""Lower scores are left out of the history: no eye can tell them from none."""

T = TypeVar("T")


class _Line(Generic[T]):
    """What waits for one reader; the oldest goes when it is too much."""

    def __init__(self, most: int, first: list[T]) -> None:
        self._most, self._waiting = most, deque(first)
        self._come = asyncio.Event()
        self._over = False
        self.lost = 0

    def put(self, item: T) -> None:
        """Add what is new."""
        self._waiting.append(item)
        if len(self._waiting) > self._most:
            self._waiting.popleft()
            self.lost += 1
        self._come.set()

    def close(self) -> None:
        """Let the reader go."""
        self._over = True
        self._come.set()

    async def take(self, timeout_s: float) -> list[T] | None:
        """Return all that waits, nothing if nothing comes for so long, None when it is over."""
        if not self._waiting and not self._over:
            self._come.clear()
            try:
                async with asyncio.timeout(timeout_s):  # wait_for can swallow that the page has gone
                    await self._come.wait()
            except TimeoutError:
                return []
        if self._over:
            return None
        items = list(self._waiting)
        self._waiting.clear()
        return items


class Page:
    """One page that listens."""

    def __init__(self, history: list[str]) -> None:
        self.line = _Line[str](_MOST_WAITING + len(history), history)

    async def text(self, timeout_s: float) -> str | None:
        """Return what is new, as server-sent events: "" if nothing came for so long, None when the page is to go."""
        items = await self.line.take(timeout_s)
        if items is None:
            return None
        lost, self.line.lost = self.line.lost, 0
        missed = [_event("missed", json.dumps({"count": lost}))] if lost else []
        return "".join(missed + items)


class Hub:
    """Passes on what is said to every page. Everything is called on the event loop.

    Args:
        hello: what a page is told first: stream, run, bundle, labels, promise, deadline, clips, preview, live, version.
    """

    def __init__(self, hello: Mapping[str, Any]) -> None:
        self.hello = dict(hello)
        self.viewers: Callable[[bool], None] = lambda _: None
        """Told when the first viewer of the preview comes, and when the last one has gone."""
        self._name = secrets.token_hex(4)
        self._count = 0
        self._pages: set[Page] = set()
        self._viewers: set[_Line[bytes]] = set()
        self._retained: dict[str, str] = {}
        self._words: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._clips: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._rows: deque[tuple[int, str]] = deque(maxlen=_MOST_ROWS)
        self._newest: dict[str, float] = {}  # half and media time

    @property
    def pages(self) -> int:
        """How many pages listen."""
        return len(self._pages)

    def send(self, kind: str, message: Message) -> None:
        """Tell every page.

        Args:
            kind: spot, scores, status, clock, stats or clip.
            message: of that kind.
        """
        self._count += 1
        data = message.model_dump_json()
        text = _event(kind, data, self._identifier())
        if kind in RETAINED:
            self._retained[kind] = _event(kind, data)
        elif isinstance(message, SpotMessage):
            _keep(self._words, message.id, (self._count, text))
        elif isinstance(message, ClipMessage):
            _keep(self._clips, message.id, (self._count, text))
        elif isinstance(message, ScoresMessage):
            self._newest = {"half": message.half, "media_time": message.media_time}
            self._rows.extend((self._count, row) for row in _compact(message))
        for page in self._pages:
            page.line.put(text)

    def picture(self, jpeg: bytes) -> None:
        """Show a picture to whoever views the preview."""
        for viewer in self._viewers:
            viewer.put(jpeg)

    @contextmanager
    def listening(self, *, history: bool, last_id: str | None) -> Iterator[Page]:
        """Give a page what is said, as long as the block lasts.

        Args:
            history: whether it wants what was said before.
            last_id: the id of the last event that it has had; what it missed since is sent in any case.
        """
        after = self._position(last_id)
        page = Page(self._first(after if after is not None else 0 if history else self._count))
        self._pages.add(page)
        try:
            yield page
        finally:
            self._pages.discard(page)

    @contextmanager
    def viewing(self) -> Iterator["_Line[bytes]"]:
        """Give a viewer the newest picture, as long as the block lasts."""
        viewer = _Line[bytes](1, [])
        self._viewers.add(viewer)
        if len(self._viewers) == 1:
            self.viewers(True)
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self.viewers(False)

    def dismiss(self) -> None:
        """Send every page and viewer away."""
        for line in [page.line for page in self._pages] + list(self._viewers):
            line.close()

    def _first(self, after: int) -> list[str]:
        """Return what a page is told first: who we are, how things are, what was said after an event; `present`."""
        rows = [row for n, row in self._rows if n > after]
        parts = [rows[i : i + _ROWS_AN_EVENT] for i in range(0, len(rows), _ROWS_AN_EVENT)]
        said = sorted(item for kept in (self._words, self._clips) for item in kept.values() if item[0] > after)
        return [
            _event("hello", json.dumps(self.hello)),
            *(self._retained[kind] for kind in RETAINED if kind in self._retained),
            *(_event("past", f'{{"rows":[{",".join(part)}]}}') for part in parts),
            *(text for _, text in said),
            _event("present", json.dumps(self._newest), self._identifier()),
        ]

    def _identifier(self) -> str:
        return f"{self._name}-{self._count}"

    def _position(self, last_id: str | None) -> int | None:
        """Return which event an id names; None if it is none of this run."""
        name, _, number = (last_id or "").partition("-")
        return int(number) if name == self._name and number.isdecimal() and number.isascii() else None


def _keep(kept: OrderedDict[str, tuple[int, str]], key: str, item: tuple[int, str]) -> None:
    kept[key] = item
    kept.move_to_end(key)
    if len(kept) > _MOST_SPOTS:
        kept.popitem(last=False)


def _compact(message: ScoresMessage) -> Iterator[str]:
    """Return rows for the history: half, epoch, media time, and the scores that can be seen."""
    for row in message.rows:
        scores = {label: round(score, 3) for label, score in row.scores.items() if score >= _LEAST_SCORE}
        yield json.dumps([message.half, message.epoch, row.media_time, scores], separators=(",", ":"))


def _event(kind: str, data: str, identifier: str | None = None) -> str:
    named = f"id: {identifier}\n" if identifier is not None else ""
    return f"event: {kind}\n{named}data: {data}\n\n"
