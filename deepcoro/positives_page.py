"""positives.html of a run folder: whom the rule takes for whom, written before a step is trained. It shows texts as the shards hold them, scrubbed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepcoro import atomic
from deepcoro.build import Parts
from deepcoro.matching import Described, alike, packed
from deepcoro.page import render_page
from deepcoro.run_config import RunConfig
from deepcoro.sample import StudyRecord, text_id

PAGE = "positives.html"
MOST_SAMPLES = 2000
"""Samples that the page looks at, at equal distances through the train split: a page must not read a million records."""
_EXAMPLES_EACH = 4


@dataclass(frozen=True)
class Example:
    """Two texts (or a film and a text) that belong together."""

    weight: float
    one: str
    other: str
    kind: str
    """Why it is shown."""


@dataclass(frozen=True)
class Matched:
    """What the page says."""

    rule: str
    settings: Mapping[str, Any]
    facts: Mapping[str, str | int]
    per_item: str
    """What the quantiles count."""
    quantiles: Sequence[int]
    """Fewest, quarter, median, three quarters, most."""
    examples: Sequence[Example]


def write_positives(config: RunConfig, parts: Parts) -> Path | None:
    """Writes the page where texts are matched by more than equality; None where they are not. For one rank."""
    rules = [each.positives for each in config.objectives.values() if getattr(each, "positives", None)]
    field = parts.fields.get("report")
    rule = next((each for each in rules if each.likeness), None)
    has_edges = hasattr(field, "bank")
    if not rules or field is None or not (has_edges or rule):
        return None
    units = parts.shards.units("train", config.data.multi_video, config.data.num_videos)
    chosen = np.unique(
        np.linspace(0, len(units) - 1, min(MOST_SAMPLES, len(units))).round().astype(int)
    ).tolist()
    samples = [
        (parts.shards.study(int(units.study_row[unit])), units.shown_clips(unit, None)) for unit in chosen
    ]
    looked_at = f"{len(samples)} of {len(units)}"
    if has_edges:
        matched = of_edges(field.bank, samples, looked_at)
    else:
        texts = [text for text in (field.text_of(*sample) for sample in samples) if text is not None]
        matched = of_rule(rule, texts, field.describe, looked_at)
    path = config.run_dir / PAGE
    atomic.write_text(path, render_page(PAGE, run_name=config.run_dir.name, matched=matched))
    return path


def of_rule(rule: Any, texts: Sequence[str], describe: Any, looked_at: str) -> Matched:
    """Pairs of distinct texts that the rule takes for positives."""
    distinct = list({text_id(text): text for text in texts}.values())
    described = [describe(text) for text in distinct]
    wordings = Counter(each.meaning for each in described)
    text_of = {each.meaning: text for each, text in zip(described, distinct, strict=True)}
    pairs = _pairs(rule, list({each.meaning: each for each in described}.values()))
    # of a text: the other texts of its meaning, and all those of meanings alike
    others = {meaning: count - 1 for meaning, count in wordings.items()}
    for one, other, _ in pairs:
        others[one] += wordings[other]
        others[other] += wordings[one]
    counts = [others[each.meaning] for each in described]
    alone = sum(each.keys == [text_id(text)] for each, text in zip(described, distinct, strict=True))
    facts = {
        "Training samples looked at": looked_at,
        "with a text": len(texts),
        "distinct texts": len(distinct),
        "distinct meanings": len(wordings),
        "texts that the rule reads nothing in (positives of equal ones only)": alone,
        "texts without any other positive": sum(count == 0 for count in counts),
        "pairs of meanings that are positives": len(pairs),
    }
    return Matched(
        rule.type,
        rule.model_dump(exclude={"type"}),
        facts,
        "Other distinct texts that are positives of a text",
        _quantiles(counts),
        [*_same_meaning(described, distinct), *_shown(pairs, text_of)],
    )


def of_edges(bank: Any, samples: Sequence[tuple[StudyRecord, tuple[int, ...]]], looked_at: str) -> Matched:
    """What the edges say of films."""
    found = [(study, bank.positives_of(study, clips)) for study, clips in samples]
    counts = [len(positives) for _, positives in found if positives]
    used = {row for _, positives in found for row in positives}
    triples = [
        (study.study, bank.texts[row], weight)
        for study, positives in found
        for row, weight in positives.items()
    ]
    facts = {
        "Training samples looked at": looked_at,
        "with an edge (the others take no part)": len(counts),
        "distinct texts of the table": len(bank.texts),
        "of them positives of a sample looked at": len(used),
    }
    examples = [Example(weight, f"study {key}", text, kind) for key, text, weight, kind in _spread(triples)]
    return Matched("edges", {}, facts, "Texts that are positives of a sample", _quantiles(counts), examples)


def _pairs(rule: Any, meanings: Sequence[Described]) -> list[tuple[int, int, float]]:
    """Each pair of unequal meanings once."""
    keys = packed(meanings)
    return [
        (one, other, weight)
        for block in alike(keys, keys, rule.likeness, rule.threshold)
        for one, other, weight in zip(*(each.tolist() for each in block), strict=True)
        if one < other
    ]


def _quantiles(counts: Sequence[int]) -> list[int]:
    return np.quantile(counts or [0], (0, 0.25, 0.5, 0.75, 1), method="nearest").astype(int).tolist()


def _same_meaning(described: Sequence[Described], texts: Sequence[str]) -> list[Example]:
    first: dict[int, str] = {}
    examples = []
    for each, text in zip(described, texts, strict=True):
        known = first.setdefault(each.meaning, text)
        if known != text:
            examples.append(Example(1.0, known, text, "the same to the rule"))
    return examples[:_EXAMPLES_EACH]


def _shown(pairs: Sequence[tuple[int, int, float]], text_of: Mapping[int, str]) -> list[Example]:
    return [
        Example(weight, text_of[one], text_of[other], kind) for one, other, weight, kind in _spread(pairs)
    ]


def _spread(pairs: Sequence[tuple[Any, Any, float]]) -> list[tuple[Any, Any, float, str]]:
    """The heaviest, some of middle weight, and the lightest: what a threshold should be judged by."""
    ordered = sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))
    if len(ordered) <= 3 * _EXAMPLES_EACH:
        return [(*pair, "all there are") for pair in ordered]
    middle = len(ordered) // 2
    return [
        *((*pair, "heaviest") for pair in ordered[:_EXAMPLES_EACH]),
        *((*pair, "middle") for pair in ordered[middle : middle + _EXAMPLES_EACH]),
        *((*pair, "lightest") for pair in ordered[-_EXAMPLES_EACH:]),
    ]
