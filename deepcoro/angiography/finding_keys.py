"""What a report says of the coronary tree as a set of words, so that texts can be compared however they are worded."""

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse


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
