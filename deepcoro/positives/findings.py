"""Reports that say the same of the coronary tree are positives, however they are worded."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from deepcoro.angiography.finding_keys import findings_of
from deepcoro.config import Block
from deepcoro.matching import Described, Likeness
from deepcoro.sample import text_id


@dataclass(frozen=True)
class DescribeFindings:
    """A text as the set of its findings: (tree, segment, severity bin) of each narrowing, and `no narrowing` of a tree without.

    A text of which the grammar reads no finding is like itself alone.
    """

    details: bool

    def __call__(self, text: str) -> Described:
        found = sorted(findings_of(text, self.details))
        if not found:
            return Described(text_id(text), [text_id(text)], [1.0])
        return Described(text_id(" | ".join(found)), [text_id(each) for each in found], [1.0] * len(found))


class Config(Block):
    """Reports whose parsed findings overlap: the same tree, segment and severity bin (below 50, 50, 70, 90 %). The weight is the
    overlap: findings in common / findings of either. A report without a finding that the grammar reads is a positive of equal ones.
    """

    type: Literal["findings"] = "findings"
    """Which rule this is."""
    threshold: float = Field(0.5, gt=0, le=1)
    """Smallest overlap of positives; 1 = the same findings."""
    details: bool = False
    """Also count chronic occlusion, stent, thrombus and the grade of calcification as findings of a segment."""

    likeness: ClassVar[Likeness] = "jaccard"
    learns: ClassVar[bool] = False

    def describer(self, texts: Iterable[str]) -> DescribeFindings:
        return DescribeFindings(self.details)
