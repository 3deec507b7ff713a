"""Prompts for zero-shot classification and regression, rendered by the very grammar that wrote the reports."""

from collections.abc import Iterator

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.angiography.vocabulary import DOMINANCES, SEGMENTS, SIDES, Dominance, Side, segments_of

_MAJOR = ("prox_rca", "mid_rca", "dist_rca", "prox_lad", "mid_lad", "prox_lcx", "mid_lcx")
_SEVERE_PERCENT = 80


def _example_findings(side: Side, dominance: Dominance) -> Iterator[SideFindings]:
    """Typical things to say of one tree: nothing wrong, a severe stenosis or an occlusion of each major segment."""
    yield SideFindings(side, dominance, no_significant_stenosis=True)
    for segment in segments_of(side, dominance):
        if segment in _MAJOR:
            yield SideFindings(side, dominance, (Lesion(segment, _SEVERE_PERCENT),))
            yield SideFindings(side, dominance, (Lesion(segment, 100, cto=True),))


def _prompts() -> dict[str, dict[str | int, list[str]]]:
    examples = [
        each for side in SIDES for dominance in DOMINANCES for each in _example_findings(side, dominance)
    ]
    return {
        "side": {side: [render(each) for each in examples if each.side == side] for side in SIDES},
        "dominance": {
            dominance: [render(each) for each in examples if each.dominance == dominance]
            for dominance in DOMINANCES
        },
        "cto": {value: [render(each) for each in examples if each.cto == bool(value)] for value in (0, 1)},
    }


ZERO_SHOT: dict[str, dict[str | int, list[str]]] = _prompts()
"""Label column -> class value as in dataset.csv -> prompts. A class is scored by the mean of its prompts' embeddings.

Prompts of a class differ in everything but the class, evenly between classes, so that the rest cancels.
"""


_SUFFIX = "_stenosis"
SWEEPS: frozenset[str] = frozenset({"max_stenosis", *(f"{segment}{_SUFFIX}" for segment in SEGMENTS)})
"""Label columns that `sweep_sentences` knows."""


def sweep_sentences(label: str, percent: int) -> list[str]:
    """Sides with one lesion of so many percent, in the segment that the label names or (`max_stenosis`) in each major one. 0 is a tree
    free of significant stenosis."""
    segments = _MAJOR if label == "max_stenosis" else (label.removesuffix(_SUFFIX),)
    places = [
        (side, dominance, segment)
        for side in SIDES
        for dominance in DOMINANCES
        for segment in segments
        if segment in segments_of(side, dominance)
    ]
    findings = [
        SideFindings(
            side,
            dominance,
            (Lesion(segment, percent),) if percent else (),
            no_significant_stenosis=not percent,
        )
        for side, dominance, segment in places
    ]
    return list(dict.fromkeys(render(each) for each in findings))
