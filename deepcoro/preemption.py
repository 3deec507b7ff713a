"""A scheduler's SIGTERM becomes a flag that all ranks see at the same step, so that they save together and leave."""

import signal
from types import FrameType

from deepcoro import distributed

EXIT_CODE = 75  # EX_TEMPFAIL: start me again


class Preemption:
    """Notes SIGTERM while it is open; `requested()` is true on every rank once one of them got it."""

    def __enter__(self) -> "Preemption":
        self._noted = False
        self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True

    def requested(self) -> bool:
        """Collective; asked once a step."""
        return distributed.any_rank(self._noted)
