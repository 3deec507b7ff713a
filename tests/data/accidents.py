"""Paths of films over which something happens to a worker process. A file of its own, since every worker imports it."""

import multiprocessing
import os
import signal
import time
from pathlib import Path


class Accident(type(Path())):
    """The path of a film over which something happens to each process that opens it, but never to the one that runs the tests."""

    def is_file(self) -> bool:
        if multiprocessing.parent_process() is not None:
            self.happen()
        return super().is_file()

    def happen(self) -> None:
        raise NotImplementedError


class Killing(Accident):
    def happen(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class KillingOnce(Accident):
    """As when the system takes a process for the memory that others use."""

    def happen(self) -> None:
        mark = Path(f"{self}.met")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Hanging(Accident):
    def happen(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT])  # as deep in a library
        time.sleep(10_000)


class Dying(type(Path())):
    """Ends the process outside of any film: where its size and time are asked for."""

    def is_dir(self) -> bool:
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().is_dir()
