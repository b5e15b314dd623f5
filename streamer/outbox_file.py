"""The outbox's file, and what it has not taken yet; the only importer of sqlite3. All of it runs in one thread."""

import errno
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path

from engines.errors import DeliveryError

log = logging.getLogger("touchline.outbox")

STANDING, REMEMBERED, MARK, LAST = "standing", "remembered", "mark", "last"
"""Kinds of what is kept beside the spots."""
What = tuple[str, str]
"""Kind and key."""

_APPLICATION, _VERSION = 0x746F7563, 1
"""Written into the file: whose it is (`touc`), and the version of its tables."""
_SCHEMA = """
CREATE TABLE spots (sequence INTEGER PRIMARY KEY, message TEXT NOT NULL);
CREATE TABLE kept (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key));
"""
_BUSY_S = 1.0
"""How long another program may hold the file."""
_SIDE_FILES = ("", "-wal", "-journal", "-shm")
_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""What a disk may say today and not tomorrow."""
BEGINNING_UTC = datetime(2020, 1, 1, tzinfo=UTC)
"""What begins without its past counts from here by the wall clock, and so repeats nothing."""
_A_SECOND = 1000
"""Sequences that a second of that counting leaves room for."""


class OutboxFile:
    """The file, and what it has not taken yet. All of it runs in the outbox's one thread.

    A change is first made in memory (`add`, `remove`, `keep`), and `save` writes all that is not written in one
    transaction. So a disk that fails needs no other way: the changes stay, and the next `save` tries them again. One
    that fails at the start is the same: until a `save` can open the file, all of it is in memory.

    Attributes:
        pending: words that wait, on the disk or not.
        dropped: words that were given up.
        fault: what is wrong with the disk, in one sentence.
        is_cut_off: what earlier runs kept is not known; sequences have leapt past all that they can have used.
    """

    def __init__(self, path: Path | None, capacity: int) -> None:
        self._path, self._capacity = path, capacity
        self.pending, self.dropped = 0, 0
        self.fault: str | None = None
        self.is_cut_off = False
        self._is_away = False  # `_db` then stands in for the file, and is empty
        self._is_overdue = False  # words came to light that are older than what was asked for
        self._read = 0  # up to here they are on the disk too, while that is away
        self._last = 0
        self._added: dict[int, str] = {}
        self._removed: dict[int, None] = {}
        self._kept: dict[What, str | None] = {}
        self._said_dropping = False

    def open(self) -> dict[What, str]:
        """Open the file, and return what is kept beside the spots; a disk that fails is a `fault`.

        Raises:
            DeliveryError: it cannot be used, and that does not pass by itself; in one sentence.
        """
        try:
            self._db, self.is_cut_off = _opened_or_begun(self._path)
            kept, self.pending, newest = _state(self._db)
        except (sqlite3.Error, OSError) as error:
            if self._path is None or not _may_pass(cause := _told(self._path, error)):
                raise DeliveryError(_why_not_opened(self._name, error)) from None
            kept = self._begin_away(self._path, cause)
            newest = self._read
        self._last = max(newest, int(kept.get((LAST, ""), 0)))
        if self.is_cut_off:
            self._last = int((datetime.now(UTC) - BEGINNING_UTC).total_seconds()) * _A_SECOND
            self._kept[LAST, ""] = str(self._last)
        return kept

    def _begin_away(self, path: Path, error: Exception) -> dict[What, str]:
        """Go on in memory, with what the file holds if it can at least be read."""
        kept: dict[What, str] = {}
        with suppress(sqlite3.Error, OSError):
            kept, self._added = _only_read(path)
        self.is_cut_off = not kept
        self.pending, self._read = len(self._added), max(self._added, default=0)
        self._db, self._is_away = _opened(None), True
        self._failed(error)
        return kept

    def _come_back(self) -> None:
        """Open the file after all; what it holds that could not be read before is older than all there is."""
        db, _ = _opened_or_begun(self._path)
        try:
            unknown = sum(self._is_unknown(number) for (number,) in db.execute("SELECT sequence FROM spots"))
        except sqlite3.Error:
            db.close()
            raise
        self._db.close()
        self._db, self._is_away, self._read = db, False, 0
        self.pending += unknown
        self._is_overdue = unknown > 0

    def close(self) -> None:
        """Close the file; what it never took is lost, and said."""
        if self.fault is not None:
            self.save()
        if lost := sum(sequence > self._read for sequence in self._added):
            log.error("%s: %d spots could not be written and are lost.", self._path, lost)
        with suppress(sqlite3.Error):
            self._db.close()

    def add(self, words: Iterable[tuple[str, bool, str]]) -> None:
        """Take words: id, whether it is provisional, and its text."""
        for identifier, provisional, text in words:
            self._kept[STANDING, identifier] = text if provisional else None
            if not provisional:
                self._last += 1
                self._added[self._last] = text
                self.pending += 1
                self._kept[LAST, ""] = str(self._last)
        excess = self.pending - self._capacity
        if excess > 0:
            self.drop(self._oldest(excess))
            if not self._said_dropping:
                self._said_dropping = True
                log.warning("%s: %d spots wait already; the oldest are dropped.", self._name, self._capacity)

    def _oldest(self, count: int) -> list[int]:
        """Return what is to be dropped; while the disk cannot be read, what is too much for the memory."""
        try:
            return [sequence for sequence, _ in islice(self._waiting(0), count)]
        except sqlite3.Error as error:
            self._failed(error)
            return list(islice(self._added, max(len(self._added) - self._capacity, 0)))

    def drop(self, sequences: Sequence[int]) -> None:
        """Give words up."""
        before = self.pending
        self.remove(sequences)
        self.dropped += before - self.pending

    def remove(self, sequences: Sequence[int]) -> None:
        """Let go of words; of those that are not there any more too."""
        for sequence in sequences:
            if self._added.pop(sequence, None) is not None:
                self.pending -= 1
                if sequence <= self._read:
                    self._removed[sequence] = None
            elif sequence not in self._removed and self._is_on_disk(sequence):
                self._removed[sequence] = None
                self.pending -= 1
        if self.pending < self._capacity // 2:
            self._said_dropping = False

    def keep(self, what: What, value: str) -> None:
        """Keep a value beside the spots."""
        self._kept[what] = value

    def after(self, sequence: int, limit: int) -> list[tuple[int, str]]:
        """Return the oldest that wait behind a sequence, with their texts.

        Where the disk cannot be read it ends, so that nothing overtakes. What comes to light late is given first, once.
        """
        if self._is_overdue:
            sequence, self._is_overdue = 0, False
        found = []
        try:
            for row in islice(self._waiting(sequence), limit):
                found.append(row)
        except sqlite3.Error as error:
            self._failed(error)
        return found

    def save(self) -> None:
        """Write what is not written; if the disk fails, it stays in memory and `fault` says so."""
        try:
            if self._is_away:
                self._come_back()
            self._write()
        except (sqlite3.Error, OSError, DeliveryError) as error:
            with suppress(sqlite3.Error):
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
            self._failed(error)
            return
        self._added.clear()
        self._removed.clear()
        self._kept.clear()
        if self.fault is not None:
            self.fault = None
            log.info("%s: what was kept in memory is on the disk now.", self._name)

    def _write(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR REPLACE INTO spots VALUES (?, ?)", self._added.items())
        self._db.executemany("DELETE FROM spots WHERE sequence = ?", ((number,) for number in self._removed))
        gone = ((kind, key) for (kind, key), value in self._kept.items() if value is None)
        self._db.executemany("DELETE FROM kept WHERE kind = ? AND key = ?", gone)
        there = ((kind, key, value) for (kind, key), value in self._kept.items() if value is not None)
        self._db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", there)
        self._db.execute("COMMIT")

    def _waiting(self, sequence: int) -> Iterator[tuple[int, str]]:
        """Yield what waits behind a sequence: what is on the disk is older than what is not."""
        return chain(self._on_disk(sequence), (row for row in self._added.items() if row[0] > sequence))

    def _on_disk(self, sequence: int) -> Iterator[tuple[int, str]]:
        query = "SELECT sequence, message FROM spots WHERE sequence > ? ORDER BY sequence"
        return (row for row in self._db.execute(query, (sequence,)) if self._is_unknown(row[0]))

    def _is_unknown(self, sequence: int) -> bool:
        """Return whether a word on the disk is news to the memory."""
        return sequence not in self._removed and sequence not in self._added

    def _is_on_disk(self, sequence: int) -> bool:
        try:
            return self._db.execute("SELECT 1 FROM spots WHERE sequence = ?", (sequence,)).fetchone() is not None
        except sqlite3.Error as error:
            self._failed(error)
            return True

    def _failed(self, error: Exception) -> None:
        before = self.fault
        if self._is_away and self._path is not None:
            error = _told(self._path, error)
        self.fault = (
            f"{self._name}: {_what(error)}; spots are kept in memory until that is mended, "
            "and would be lost if the streamer ended now."
        )
        if before is None:
            log.warning("%s", self.fault)

    @property
    def _name(self) -> str:
        return str(self._path or "the outbox")


class _Damaged(sqlite3.DatabaseError):
    """The file's own check failed."""


def _opened_or_begun(path: Path | None) -> tuple[sqlite3.Connection, bool]:
    """Return the file, and whether that is a new one because the old one was damaged and set aside."""
    try:
        return _opened(path), False
    except sqlite3.Error as error:
        if path is None or not _is_damaged(path, error):
            raise
        _set_aside(path)
        return _opened(path), True


def _opened(path: Path | None) -> sqlite3.Connection:
    """Return the file, ready and locked: the system's lock on it ends with the process, however that ends."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    db = _connected(str(path or ":memory:"))
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        is_new = _is_new(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA fullfsync = ON")  # without which macOS leaves it in the drive's cache
        if is_new:
            about = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {about} COMMIT;")
        elif (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _Damaged(found)
    except BaseException:
        db.close()
        raise
    return db


def _connected(where: str) -> sqlite3.Connection:
    db = sqlite3.connect(where, timeout=_BUSY_S, isolation_level=None, uri=where.startswith("file:"))
    db.text_factory = lambda text: text.decode("utf-8", "replace")  # one bad byte stops nothing
    return db


def _only_read(path: Path) -> tuple[dict[What, str], dict[int, str]]:
    """Return what is kept and what waits in a file that cannot be written; SQLite's usual way needs to write beside it.

    Nobody else can be at it: where a lock is to be had, it was asked for first.
    """
    log_file = Path(f"{path}-wal")
    way = "vfs=unix-none" if log_file.exists() and log_file.stat().st_size else "immutable=1"
    db = _connected(f"{path.absolute().as_uri()}?mode=ro&{way}")
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        if _is_new(db, path):
            return {}, {}
        return _state(db)[0], dict(db.execute("SELECT sequence, message FROM spots ORDER BY sequence"))
    finally:
        db.close()


def _state(db: sqlite3.Connection) -> tuple[dict[What, str], int, int]:
    """Return what is kept, how many words wait, and the newest one's sequence; a file that fails is closed."""
    try:
        count, newest = db.execute("SELECT count(*), coalesce(max(sequence), 0) FROM spots").fetchone()
        kept = {(kind, key): value for kind, key, value in db.execute("SELECT * FROM kept ORDER BY rowid")}
        return kept, count, newest
    except sqlite3.Error:
        db.close()
        raise


def _is_new(db: sqlite3.Connection, path: Path | None) -> bool:
    """Return whether the file has nothing in it yet.

    Raises:
        DeliveryError: what is in it is not for us.
    """
    application, version, tables = (
        db.execute(query).fetchone()[0]
        for query in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if application == 0 and tables == 0:
        return True
    if application != _APPLICATION:
        raise DeliveryError(f"{path}: this is another program's database; give another --state.")
    if version > _VERSION:
        raise DeliveryError(f"{path}: a newer touchline wrote this (version {version}); use that, or another --state.")
    return False


def _is_damaged(path: Path, error: Exception) -> bool:
    """Return whether this is an outbox that was damaged, and not something that never was one."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_NOTADB":
        with path.open("rb") as file:
            begin = file.read(16)
        return begin == b"SQLite format 3\0" or not any(begin)  # what a power cut leaves may be zeros
    return isinstance(error, _Damaged) or name.startswith("SQLITE_CORRUPT")


def _set_aside(path: Path) -> None:
    aside = f"{path}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for end in _SIDE_FILES:
        with suppress(FileNotFoundError):
            Path(f"{path}{end}").rename(f"{aside}{end}")
    log.warning("%s: the file is damaged; it was set aside as %s and a new one begun.", path, Path(aside).name)


def _told(path: Path, error: Exception) -> Exception:
    """Return the system's own word where SQLite's says little; none of our connections may be open."""
    if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
        try:
            for end in ("", "-wal"):
                Path(f"{path}{end}").open("ab").close()
        except OSError as cause:
            return cause
    return error


def _may_pass(error: Exception) -> bool:
    """Return whether it is the disk that fails, and not what was asked of it; a lock that fails says nothing."""
    if isinstance(error, OSError):
        return error.errno in _MAY_PASS
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and "LOCK" not in name)


def _why_not_opened(name: str, error: Exception) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{name}: another run uses this outbox; give this one another --stream or --state."
    if code == "SQLITE_NOTADB":
        return f"{name}: this is not an outbox; give another --state."
    return f"{name}: the outbox cannot be opened here ({_what(error)}); give another --state."


_FAULTS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_READONLY": "it cannot be written",
    "SQLITE_CANTOPEN": "it cannot be opened or made",
    "SQLITE_BUSY": "another program holds it",
    "SQLITE_CORRUPT": "it is damaged",
    "SQLITE_NOTADB": "it is damaged",
    "SQLITE_IOERR": "the disk fails",
}


def _what(error: Exception) -> str:
    if isinstance(error, DeliveryError):
        return "something else lies there now"
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        return why[0].lower() + why[1:]
    name = getattr(error, "sqlite_errorname", "")
    return next((text for code, text in _FAULTS.items() if name.startswith(code)), str(error))
