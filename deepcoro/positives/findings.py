"""Reports that say the same of the coronary tree are positives, however they are worded."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse
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


def findings_of(text: str, details: bool = False) -> set[str]:
    """Findings such as `left/mid_lad/severe`; a text may speak of both trees, each from the line on that names it."""
    lines: dict[str, list[str]] = {}
    side = "unknown"
    for line in text.splitlines():
        side = parse(line).side or side
        lines.setdefault(side, []).append(line)
    return {
        f"{side}/{finding}"
        for side, of_side in lines.items()
        for finding in _of_tree(parse("\n".join(of_side)), details)
    }


def _of_tree(found: SideFindings, details: bool) -> set[str]:
    narrowed = {f"{lesion.segment}/{lesion.severity}" for lesion in found.lesions if lesion.stenosis_percent}
    speaks = found.lesions or found.normal or found.no_significant_stenosis
    if speaks and not narrowed:
        narrowed = {"no narrowing"}
    return narrowed.union(*map(_details, found.lesions)) if details else narrowed


def _details(lesion: Lesion) -> set[str]:
    said = {
        "occluded for long": lesion.cto,
        "stent": lesion.stent,
        "thrombus": lesion.thrombus,
        f"calcification {lesion.calcification}": lesion.calcification != "none",
    }
    return {f"{lesion.segment}/{what}" for what, is_said in said.items() if is_said}


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
