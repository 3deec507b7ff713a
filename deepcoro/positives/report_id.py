"""Rows with the same report text are positives of each other, and nothing else is."""

from collections.abc import Iterable
from typing import ClassVar, Literal

from deepcoro.config import Block


class Config(Block):
    """Equal reports (case and white space do not count)."""

    type: Literal["report_id"] = "report_id"
    """Which rule this is."""

    likeness: ClassVar[None] = None
    learns: ClassVar[bool] = False

    def describer(self, texts: Iterable[str]) -> None:
        return None
