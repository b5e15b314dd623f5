"""Inputs that must be findings: whoever finds nothing has to show that it could."""

import os
import random
import threading
import time
from pathlib import Path

import numpy as np

from fuzzing.kinds import Case

FAULTS = ("traceback", "thread", "hang", "died", "memory")


class Planted:
    """Faults, one after the other."""

    def prepare(self, folder: Path) -> None:
        """Nothing is slow."""

    def case(self, rng: random.Random) -> Case:
        """Return a fault by chance."""
        fault = rng.choice(FAULTS)
        return Case(f"a planted fault: {fault}", {}, {"fault": fault})

    def feed(self, case: Case) -> None:
        """Commit it."""
        fault = case.feed["fault"]
        if fault == "traceback":
            raise KeyError("planted")
        if fault == "thread":
            thread = threading.Thread(target=int, args=("planted",))
            thread.start()
            thread.join()
        elif fault == "hang":
            time.sleep(3600)
        elif fault == "died":
            os.abort()
        else:
            np.ones(400 * 2**20, np.uint8).sum()  # with --memory 300
