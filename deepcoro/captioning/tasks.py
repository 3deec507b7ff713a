"""What a caption decoder is asked to write: the whole report, the finding of a segment, the place of a finding.

After LocCa (Wan et al. 2024, arXiv:2403.19596), with segments and views where it has boxes. A task is a token of its own, beyond the
tokenizer's words: `[task] text [end]`, or `[task] question [end] answer [end]`, and only what follows the prefix is to be predicted.
"""

from functools import lru_cache
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import parse_trees
from deepcoro.angiography.phrases import ENGLISH
from deepcoro.angiography.vocabulary import SEGMENTS, segments_of
from deepcoro.config import ConfigError

Task = Literal["report", "finding", "place"]
TASKS: tuple[Task, ...] = get_args(Task)


class Exchange(NamedTuple):
    """A task and what to answer."""

    task: Task
    question: str
    """Empty for the whole report."""
    answer: str


def exchanges_of(text: str, views: set[str], draw: np.random.Generator | None) -> list[Exchange]:
    """The tasks that a report allows, whole report first. `draw` chooses the segment and the lesion asked for; None takes the first.

    A report that the grammar cannot read allows the first task only. `views`: of the films shown; the place names it where they agree.
    """
    trees = _trees_of(text)
    exchanges = [Exchange("report", "", text)]
    known = [each for tree in trees for each in _known_segments(tree)]
    lesions = [lesion for tree in trees for lesion in tree.lesions]
    if known:
        segment, words = known[_drawn(len(known), draw)]
        exchanges.append(Exchange("finding", SEGMENTS[segment].name, words))
    if lesions:
        words = finding_words(lesions[_drawn(len(lesions), draw)])
        places = [SEGMENTS[each.segment].name for each in lesions if finding_words(each) == words]
        view = next(iter(views)).replace("_", " ") if len(views) == 1 else ""
        exchanges.append(Exchange("place", words, ", ".join(filter(None, [*places, view]))))
    return exchanges


@lru_cache(maxsize=65536)
def _trees_of(text: str) -> tuple[SideFindings, ...]:
    """Many rows share a text, and every epoch reads it again."""
    return parse_trees(text)


def _drawn(count: int, draw: np.random.Generator | None) -> int:
    return 0 if draw is None else int(draw.integers(count))


def _known_segments(findings: SideFindings) -> list[tuple[str, str]]:
    """Segments that the report says something of, and what. Where it clears a whole tree, also those it does not name."""
    known = [(each.segment, finding_words(each)) for each in findings.lesions]
    known += [(segment, "no disease") for segment in findings.normal]
    if findings.no_significant_stenosis and findings.side and findings.dominance:
        named = {segment for segment, _ in known}
        # not everybody has a ramus
        tree = set(segments_of(findings.side, findings.dominance)) - named - {"bx"}
        known += [(segment, "no significant stenosis") for segment in SEGMENTS if segment in tree]
    return known


def finding_words(lesion: Lesion) -> str:
    """A lesion without its place: "chronic total occlusion, heavy calcification". English, whatever the report's language."""
    words = []
    if lesion.cto:
        words.append("chronic total occlusion")
    if lesion.stent:
        patent = not lesion.stenosis_percent
        words.append("patent stent" if patent else f"in-stent restenosis of {lesion.stenosis_percent} %")
    elif lesion.stenosis_percent and not lesion.cto:
        words.append(f"{ENGLISH.severities[lesion.severity]} stenosis ({lesion.stenosis_percent} %)")
    if lesion.calcification != "none":
        words.append(f"{ENGLISH.grades[lesion.calcification]} calcification")
    if lesion.thrombus:
        words.append("thrombus")
    return ", ".join(words)


class CaptionWords:
    """The ids a decoder reads: the tokenizer's words, then one mask and one token a task. It writes the words alone."""

    def __init__(self, tokenizer: Any):
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if end is None:
            raise ConfigError(
                "captions end with the tokenizer's separator or end-of-text token, and this one has neither; "
                "give its tokenizer_config.json an eos_token"
            )
        self.tokenizer = tokenizer
        self.end: int = end
        self.pad: int = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.num_words = len(tokenizer)
        self.mask = self.num_words
        self.num_ids = self.num_words + 1 + len(TASKS)

    def prefix(self, task: Task, question: str = "") -> list[int]:
        """What stands before the answer."""
        marker = self.num_words + 1 + TASKS.index(task)
        return [marker, *self.encode(question), self.end] if question else [marker]

    def encode(self, text: str, longest: int | None = None) -> list[int]:
        """A text's tokens without special ones, cut at `longest`."""
        cut = {} if longest is None else {"truncation": True, "max_length": longest}
        return self.tokenizer(text, add_special_tokens=False, **cut)["input_ids"]
