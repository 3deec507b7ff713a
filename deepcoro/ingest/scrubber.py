"""What one table gives to the shards, scrubbed: each distinct text once, over several processes when there are many."""

import itertools
import logging
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool

from deepcoro.config import DataError
from deepcoro.ingest.known_words import KNOWN_WORDS, normal_form
from deepcoro.ingest.workers import worker_pool

logger = logging.getLogger(__name__)

_SHORTEST_RECORD_NUMBER = 10**6
_CHUNK = 200
"""Texts that a worker takes at once."""
_WORTH_A_POOL = 4_000_000
"""Letters; a core scrubs as many while two workers start."""
_VIEW_WORD = re.compile(
    r"[-+]?\d+(?:\.\d+)?(?:DEG)?|[A-Z]?[2-5]CH?|PLAX|PSAX|SAX|LAX|SSN|SUBCOSTAL|STRAIGHT|VIEW"
)


class Scrubber:
    """Scrubs and counts what it took; each distinct text is scrubbed and counted once, whoever scrubs it."""

    def __init__(self, on: bool = True, workers: int = 1) -> None:
        self.on = on
        self.workers = workers
        self.replaced: Counter[str] = Counter()
        """Kind -> number taken out."""
        self.withheld: Counter[str] = Counter()
        """Label column (or `view`) -> cells left out, since they look like a record number or name no projection."""
        self._scrubbed: dict[str, str] = {}  # both texts are held by table and studies anyway

    def prepare(self, texts: Iterable[str | None]) -> None:
        """Scrubs all these at once; `text` then looks them up. Counts and texts do not depend on the number of workers.

        DataError when a worker process dies.
        """
        if not self.on:
            return
        distinct = [text for text in dict.fromkeys(texts) if text is not None and text not in self._scrubbed]
        if self.workers == 1 or sum(map(len, distinct)) < _WORTH_A_POOL:
            for text in distinct:
                self._keep(text, scrub(text))
            return
        logger.info("scrubbing %d distinct texts in %d processes", len(distinct), self.workers)
        chunks = [distinct[start : start + _CHUNK] for start in range(0, len(distinct), _CHUNK)]
        with worker_pool(min(self.workers, len(chunks))) as pool:
            try:
                results = itertools.chain.from_iterable(pool.map(_scrub_all, chunks))
                for text, scrubbed in zip(distinct, results, strict=True):
                    self._keep(text, scrubbed)
            except BrokenProcessPool as error:
                raise DataError(
                    "a process that scrubs reports died (out of memory?); give fewer --workers",
                    topic="out-of-memory",
                ) from error

    def text(self, text: str | None) -> str | None:
        """A report as it may enter a shard."""
        if text is None or not self.on:
            return text
        if text not in self._scrubbed:
            self._keep(text, scrub(text))
        return self._scrubbed[text]

    def _keep(self, text: str, scrubbed: tuple[str, dict[str, int]]) -> None:
        kept, replaced = scrubbed
        self._scrubbed[text] = text if kept == text else kept
        self.replaced.update(replaced)

    def label(self, column: str, value: float | str | None) -> float | str | None:
        """A label as it may enter a shard: words scrubbed, a number as long as a record number or a date left out."""
        if isinstance(value, str):
            return self.text(value)
        if self.on and value is not None and value.is_integer() and abs(value) >= _SHORTEST_RECORD_NUMBER:
            self.withheld[column] += 1
            return None
        return value

    def view(self, name: str | None) -> str | None:
        """A projection's name when its words are known ones (`RAO_CAUDAL`, `A4C`)."""
        if name is None or not self.on or all(map(_is_view_word, name.split("_"))):
            return name
        self.withheld["view"] += 1
        return None


def scrub(text: str) -> tuple[str, dict[str, int]]:
    """`deepcoro.ingest.scrub.scrub`: the text, and kind of placeholder -> how many."""
    # compiling its patterns takes half a second, which a rank that scrubs nothing need not spend at each start
    from deepcoro.ingest import scrub as patterns

    return patterns.scrub(text)


def _scrub_all(texts: list[str]) -> list[tuple[str, dict[str, int]]]:
    return [scrub(text) for text in texts]


def _is_view_word(word: str) -> bool:
    return normal_form(word) in KNOWN_WORDS or _VIEW_WORD.fullmatch(word.upper()) is not None
