"""Generated reports on the page: what they get right, beside what could be said without looking, and some to read."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from deepcoro.angiography.grammar import sentences
from deepcoro.angiography.vocabulary import SEGMENTS
from deepcoro.config import Block
from deepcoro.evaluated import Evaluated
from deepcoro.metrics.clinical_findings import Judgement, Stated, judge, stated
from deepcoro.numerals import Show, fraction, number, percent
from deepcoro.report_examples import Kind, spread
from deepcoro.report_tables import BASELINES, Card, Results, baselines_of, interval

Mark = Literal["plain", "right", "wrong", "open", "omitted", "unread"]


class Marked(Block):
    """One sentence and how it stands to the other text."""

    text: str
    """The sentence."""
    mark: Mark
    """right, wrong: the report says so, or otherwise; open: the report does not speak of it; omitted: a sentence of the report that
    the caption leaves out; unread: not in the grammar; plain: not judged."""


class CaptionExample(Block):
    """One film, its report and what the model wrote of it."""

    kind: Kind
    """How it was picked."""
    title: str
    """Keyed id of the film."""
    strip: str | None = None
    """JPEG of the film's frames, base64."""
    report: list[Marked]
    """The report, sentence by sentence."""
    caption: list[Marked]
    """What the model wrote, sentence by sentence; empty when it wrote nothing."""


@dataclass(frozen=True)
class CaptionRow:
    """One measure beside its controls, ready to print."""

    label: str
    rests_on: str
    value: str
    interval: str
    modal: str
    nearest: str
    shuffled: str
    baselines: Mapping[str, str] = field(default_factory=dict)
    """What the same measure is with less to see, by the words of `report_tables.BASELINES`."""


@dataclass(frozen=True)
class CaptionTable:
    """Rows under a heading and what their numbers count."""

    heading: str
    caption: str
    rows: list[CaptionRow]

    @property
    def baselines(self) -> list[str]:
        """Those that some row has."""
        return [words for words in BASELINES.values() if any(words in row.baselines for row in self.rows)]


@dataclass(frozen=True)
class SegmentRow:
    """One segment: reports that give it a lesion, captions that do, and their agreement."""

    name: str
    reported: str
    said: str
    precision: str
    recall: str
    f1: str


_FINDINGS: tuple[tuple[str, str, str, Show], ...] = (
    ("side/balanced_accuracy", "side/num", "right or left coronary artery (balanced accuracy)", percent),
    ("dominance/balanced_accuracy", "dominance/num", "right or left dominance (balanced accuracy)", percent),
    ("lesion/f1", "lesion/num", "segments with a lesion of 50 % or more (F1)", fraction),
    ("lesion/f1_above_modal", "lesion/num", "… more than the most common report's F1", fraction),
    ("lesion/f1_above_nearest", "lesion/num", "… more than the nearest training report's F1", fraction),
    ("lesion/recall", "lesion/num", "… lesions that are named (recall)", percent),
    ("lesion/precision", "lesion/num_said", "… named lesions that are there (precision)", percent),
    ("lesion/omission_rate", "lesion/num", "lesions left out", percent),
    ("lesion/hallucination_rate", "lesion/num_said", "named lesions that are made up", percent),
    (
        "lesion/hallucination_rate_if_complete",
        "lesion/num_said",
        "… if each report lists every lesion of its tree",
        percent,
    ),
    ("lesion/f1_if_complete", "lesion/num", "F1, if each report lists every lesion of its tree", fraction),
    (
        "lesion/f1_if_complete_above_placed",
        "lesion/num",
        "… more than with as many lesions in the commonest segments",
        fraction,
    ),
    ("cto/f1", "cto/num", "segments with a chronic occlusion (F1)", fraction),
    ("severity/accuracy", "severity/num", "severity of the lesions found (bin agrees)", percent),
    ("report/with_hallucination", "num_films", "reports with something made up", percent),
)
_WORDS: tuple[tuple[str, str, str, Show], ...] = (
    *((f"bleu_{order}", "num_films", f"BLEU-{order}", fraction) for order in (1, 2, 3, 4)),
    ("rouge_l", "num_films", "ROUGE-L", fraction),
    ("meteor_exact_stem", "num_films", "METEOR, exact words and stems (no synonyms)", fraction),
    ("cider_d", "num_films", "CIDEr-D (0 to 10)", fraction),
)


def caption_tables(results: Results) -> list[CaptionTable]:
    """Findings, then words; none for a run without captions."""
    unread = results.get("clinical_findings/num_captions_not_understood")
    findings = (
        f"{number(results.get('clinical_findings/num_films'))} films; of the reports' sentences "
        f"{percent(results.get('clinical_findings/report_sentences_understood'))} are understood, "
        f"{number(unread)} generated reports say nothing that is"
    )
    words = f"{number(results.get('captioning/num_films'))} films"
    made = [
        CaptionTable("What they say", findings, _table_rows(results, "clinical_findings", _FINDINGS)),
        CaptionTable("How they put it", words, _table_rows(results, "captioning", _WORDS)),
    ]
    return [table for table in made if table.rows]


def _table_rows(
    results: Results, prefix: str, measures: Sequence[tuple[str, str, str, Show]]
) -> list[CaptionRow]:
    return [
        CaptionRow(
            label=label,
            rests_on=number(results.get(f"{prefix}/{count}")),
            value=show(results[f"{prefix}/{key}"]),
            interval=interval(results, f"{prefix}/{key}", show),
            modal=show(results.get(f"{prefix}/{key}_modal")),
            nearest=show(results.get(f"{prefix}/{key}_nearest")),
            shuffled=show(results.get(f"{prefix}/{key}_shuffled")),
            baselines=baselines_of(results, f"{prefix}/{key}", show),
        )
        for key, count, label, show in measures
        if f"{prefix}/{key}" in results
    ]


def segment_rows(results: Results) -> list[SegmentRow]:
    """Segments that a report or a caption gives a lesion, in anatomical order."""
    keys = {segment.name: f"clinical_findings/segment/{prefix}" for prefix, segment in SEGMENTS.items()}
    return [
        SegmentRow(
            name,
            *(number(results.get(f"{key}/{count}")) for count in ("num", "num_said")),
            *(fraction(results.get(f"{key}/{measure}")) for measure in ("precision", "recall", "f1")),
        )
        for name, key in keys.items()
        if f"{key}/num" in results
    ]


def caption_cards(results: Results) -> list[Card]:
    """The headline: lesions named in the right segments, beside the best that could be said without looking."""
    key = "clinical_findings/lesion/f1"
    if key not in results:
        return []
    names = [name for name in ("modal", "nearest") if f"{key}_{name}" in results]
    blind = [results[f"{key}_{name}"] for name in names]
    is_above = bool(names) and all(results.get(f"{key}_above_{name}_ci_low", -1.0) > 0 for name in names)
    return [
        Card(
            title="Generated reports: lesions",
            value=fraction(results[key]),
            sentence=f"F1 of the segments with a lesion; the reports name {number(results.get('clinical_findings/lesion/num'))}",
            interval=interval(results, key, fraction),
            chance=fraction(max(blind)) if blind else "–",
            verdict="better than a training report" if is_above else "not told apart from a training report",
            is_above_chance=is_above,
            chance_name="Best training report",
            baselines=baselines_of(results, key, fraction),
        )
    ]


def choose_captions(evaluated: Evaluated, num_examples: int) -> dict[int, Kind]:
    """Films to show: with the fewest errors, a middling one, with the most; one film a report where there are enough."""
    if not evaluated.captions:
        return {}
    own = evaluated.text_of_film
    known = np.flatnonzero(own >= 0)
    first = known[np.unique(own[known], return_index=True)[1]] if len(known) else known
    errors = [_num_errors(evaluated.texts[own[film]], evaluated.captions[film]) for film in first]
    order = first[np.array(sorted(range(len(first)), key=lambda row: errors[row]), dtype=np.int64)]
    return {int(order[place]): kind for place, kind in spread(len(order), num_examples).items()}


def _num_errors(report: str, caption: str) -> tuple[int, int]:
    """Errors, and fewer things found: a film whose lesion was found comes before one without any."""
    there, said = stated(report), stated(caption)
    judgement = judge(there, said)
    wrong = len(judgement.omitted) + len(judgement.made_up)
    wrong += (there.sides != said.sides) + (there.dominance != said.dominance)
    return wrong, -len(judgement.found)


def show_captions(
    choices: Mapping[int, Kind], evaluated: Evaluated, strips: Mapping[int, bytes]
) -> list[CaptionExample]:
    """The chosen films with their texts marked and the strips there are (JPEG, by film number)."""
    shown = []
    for film, kind in choices.items():
        report, caption = evaluated.texts[evaluated.text_of_film[film]], evaluated.captions[film]
        strip = strips.get(film)
        shown.append(
            CaptionExample(
                kind=kind,
                title=evaluated.clips[film],
                strip=base64.b64encode(strip).decode() if strip else None,
                report=marked(report, caption, is_report=True),
                caption=marked(report, caption, is_report=False),
            )
        )
    return shown


def marked(report: str, caption: str, is_report: bool) -> list[Marked]:
    """The sentences of the report, or of the caption, each with its mark."""
    there, said = stated(report), stated(caption)
    judgement, mark = judge(there, said), _mark_report if is_report else _mark_caption
    return [
        Marked(text=sentence, mark=mark(kind, segment, there, said, judgement) if kind else "unread")
        for sentence, kind, segment in sentences(report if is_report else caption)
    ]


_TELLS_STENOSIS = ("stenosis", "cto", "stent_restenosis")


def _mark_caption(kind: str, segment: str | None, there: Stated, said: Stated, judgement: Judgement) -> Mark:
    name, _, value = kind.partition("_")
    if name == "side":
        return _agreement(value in there.sides, bool(there.sides))
    if name == "dominance":
        return _agreement(value == there.dominance, there.dominance is not None)
    lesions = there.with_finding("lesion")
    if kind == "no_significant_stenosis":
        return _agreement(not lesions, bool(lesions or there.healthy))
    if kind == "normal":
        return _agreement(segment not in lesions, segment in lesions or segment in there.healthy)
    if kind not in _TELLS_STENOSIS or segment not in said.with_finding("lesion"):
        return "plain"
    return _agreement(segment in judgement.found, segment not in judgement.not_assessed)


def _agreement(agrees: bool, is_known: bool) -> Mark:
    if not is_known:
        return "open"
    return "right" if agrees else "wrong"


def _mark_report(kind: str, segment: str | None, there: Stated, said: Stated, judgement: Judgement) -> Mark:
    name, _, value = kind.partition("_")
    if name == "side":
        return "plain" if value in said.sides else "omitted"
    if name == "dominance":
        return "plain" if value == said.dominance else "omitted"
    if kind in _TELLS_STENOSIS and segment in judgement.omitted:
        return "omitted"
    return "plain"
