"""Which texts of a shard folder say the same of the coronary tree: what `positives: {type: findings}` would match. Findings are told, no text."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepcoro.angiography.finding_keys import findings_of
from deepcoro.data.shards import Shards
from deepcoro.sample import text_id

MOST_STUDIES = 2000
"""Studies looked at, at equal distances: a page must not read a million records."""
_MOST_EXAMPLES = 3


@dataclass(frozen=True)
class FindingGroups:
    """Distinct texts by the set of their findings (tree, segment, severity bin)."""

    studies: int
    """Studies looked at."""
    texts: int
    """Distinct texts of theirs."""
    read: int
    """Of them those in which the grammar reads a finding."""
    groups: int
    """Different sets of findings among these."""
    shared: int
    """Texts whose set another text has too."""
    largest: list[tuple[str, int]]
    """Sets of most texts, of two at least, and of how many."""


def finding_groups(folder: Path, kept: Collection[str]) -> FindingGroups:
    """Of the studies of a folder that are among `kept`. DataError when a record cannot be read."""
    shards = Shards.open(folder)
    total = shards.manifest.counts.studies
    rows = np.unique(np.linspace(0, total - 1, min(MOST_STUDIES, total)).round().astype(int)).tolist()
    studies = [study for study in map(shards.study, rows) if study.study in kept]
    texts = {text_id(each.text): each.text for study in studies for each in study.reports}
    sets = (", ".join(sorted(findings_of(text))) for text in texts.values())
    counts = Counter(each for each in sets if each)
    repeated = sorted(
        ((each, count) for each, count in counts.items() if count > 1), key=lambda pair: (-pair[1], pair[0])
    )
    return FindingGroups(
        studies=len(studies),
        texts=len(texts),
        read=counts.total(),
        groups=len(counts),
        shared=sum(count for _, count in repeated),
        largest=repeated[:_MOST_EXAMPLES],
    )
