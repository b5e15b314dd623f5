"""All files of a run, written in a thread: one that cannot be written holds up no other, and no live stream."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from engines.decider import Spot
from engines.errors import DataError
from streamer.files.opening import out_file
from streamer.files.writing import OutFile
from streamer.sources.base import StreamInfo

log = logging.getLogger("touchline")

Words = Sequence[tuple[Spot, datetime]]


class RunFiles:
    """The files that a run writes.

    Args:
        paths: their endings decide on the formats.
        stream: the broadcast's name.
        live: whether the run goes on without a file that cannot be written.

    Attributes:
        fault: why one cannot be written now.

    Raises:
        UsageError: no format has such an ending.
    """

    def __init__(self, paths: Sequence[Path], stream: str, *, live: bool) -> None:
        self._files = [out_file(path, stream) for path in paths]
        self._live = live
        self.fault: str | None = None

    def __bool__(self) -> bool:
        return bool(self._files)

    def begin(self, info: StreamInfo, half: int) -> None:
        """Hear that a half's stream is open.

        Raises:
            DataError: a file cannot be written.
        """
        for file in self._files:
            file.begin(info, half)

    async def say(self, words: Words) -> None:
        """Write words.

        Raises:
            DataError: a replay's cannot be.
        """
        try:
            await self._each(partial(_say, words=words))
            self.fault = None
        except DataError as fault:
            if not self._live:
                raise
            if self.fault is None:
                log.warning("%s The stream goes on without it; it is tried again with every word.", fault)
            self.fault = str(fault)

    async def close(self) -> None:
        """Write what is left.

        Raises:
            DataError: it cannot be written.
        """
        await self._each(lambda file: file.close())

    async def _each(self, write: Callable[[OutFile], None]) -> None:
        """Have each file written; raise the first fault when all have been tried."""
        faults: list[DataError] = []

        def all_files() -> None:
            for file in self._files:
                try:
                    write(file)
                except DataError as fault:
                    faults.append(fault)

        if self._files:
            await asyncio.to_thread(all_files)
        if faults:
            raise faults[0]


def _say(file: OutFile, words: Words) -> None:
    for spot, said in words:
        file.say(spot, said)
