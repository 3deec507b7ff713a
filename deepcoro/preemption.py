"""A scheduler's SIGTERM or SIGUSR1 becomes a flag that all ranks see at the same step, so that they save together and leave."""

import ctypes
import os
import signal
import sys
from types import FrameType

EXIT_CODE = 75  # EX_TEMPFAIL: start me again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""SIGUSR1 is what SLURM's `--signal=B:USR1@120` sends ahead of the end of the time that was asked for (tools/train.sbatch)."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_launcher() -> None:
    """A rank whose launcher is killed outright would train on unseen, and race with the run that is started after it.

    Linux only; elsewhere, and without a launcher, nothing is changed.
    """
    if "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Preemption:
    """Notes SIGNALS while it is open."""

    noted = False
    """Whether this rank got one; schedulers reach ranks one after another, so the loop asks all of them once a step."""

    def __enter__(self) -> "Preemption":
        self.noted = False
        self._previous = {each: signal.signal(each, self._note) for each in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
