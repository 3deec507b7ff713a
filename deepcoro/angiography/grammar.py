"""Findings of one coronary tree to report text and back: `parse(render(findings)) == findings` in every style."""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.phrases import ABBREVIATED, ENGLISH, FRENCH, LANGUAGES, Kind, Language
from deepcoro.angiography.vocabulary import SEGMENTS

Style = Literal["canonical", "paraphrased", "abbreviated", "french"]
_LANGUAGE_OF: dict[Style, Language] = {
    "canonical": ENGLISH,
    "paraphrased": ENGLISH,
    "abbreviated": ABBREVIATED,
    "french": FRENCH,
}


def render(findings: SideFindings, style: Style = "canonical", rng: np.random.Generator | None = None) -> str:
    """The report of one tree. `canonical` says each fact in one way; the other styles draw among paraphrases with `rng`."""
    if style != "canonical" and rng is None:
        raise ValueError(f"style '{style}' draws among paraphrases and needs an rng")
    writer = _Writer(_LANGUAGE_OF[style], None if style == "canonical" else rng)
    return " ".join(writer.sentence(kind, **slots) for kind, slots in _facts(findings))


def parse(text: str, strict: bool = False) -> SideFindings:
    """The findings a report states. Sentences outside the grammar are passed over, or raise ValueError when `strict`.

    A segment that is not mentioned is in neither list. Where a text contradicts itself about a segment (generated texts
    do), the worse statement counts. Case, accents and white space say nothing, since tokenizers change them: `D1` is `d 1`.
    """
    statements = [statement for _, statement in _statements(text)]
    if strict and None in statements:
        raise ValueError(f"sentence {statements.index(None) + 1} of the report is not in the grammar")
    return _collect([statement for statement in statements if statement])


def parse_trees(text: str) -> tuple[SideFindings, ...]:
    """The findings of a text that may speak of both trees, such as a study's report: another side's name begins another tree.

    Empty where no sentence is in the grammar.
    """
    trees: list[list[_Statement]] = []
    side: Kind | None = None
    for _, statement in _statements(text):
        if statement is None:
            continue
        names_side = statement.kind.startswith("side_")
        if not trees or (names_side and side not in (None, statement.kind)):
            trees.append([])
        side = statement.kind if names_side else side
        trees[-1].append(statement)
    return tuple(_collect(tree) for tree in trees)


def sentences(text: str) -> list[tuple[str, Kind | None, str | None]]:
    """Each sentence of a text, what kind of statement it is (None = not in the grammar) and the segment it is about."""
    return [
        (sentence, statement and statement.kind, statement and statement.segment)
        for sentence, statement in _statements(text)
    ]


def _facts(findings: SideFindings) -> list[tuple[Kind, dict[str, Any]]]:
    """The statements of a report in reading order, with the content of their slots."""
    facts: list[tuple[Kind, dict[str, Any]]] = []
    if findings.side:
        facts.append((f"side_{findings.side}", {}))
    if findings.dominance:
        facts.append((f"dominance_{findings.dominance}", {}))
    if findings.no_significant_stenosis:
        facts.append(("no_significant_stenosis", {}))
    for lesion in findings.lesions:
        facts += _lesion_facts(lesion)
    return facts + [("normal", {"segment": segment}) for segment in findings.normal]


def _lesion_facts(lesion: Lesion) -> list[tuple[Kind, dict[str, Any]]]:
    where = {"segment": lesion.segment}
    narrowed = {**where, "percent": lesion.stenosis_percent, "severity": lesion.severity}
    facts: list[tuple[Kind, dict[str, Any]]] = []
    if lesion.cto:
        facts.append(("cto", where))
    if lesion.stent:
        facts.append(("stent_restenosis", narrowed) if lesion.stenosis_percent else ("stent_patent", where))
    elif lesion.stenosis_percent and not lesion.cto:
        facts.append(("stenosis", narrowed))
    if lesion.calcification != "none":
        facts.append(("calcification", {**where, "grade": lesion.calcification}))
    if lesion.thrombus:
        facts.append(("thrombus", where))
    return facts


@dataclass(frozen=True)
class _Writer:
    language: Language
    rng: np.random.Generator | None
    """None = always the first wording."""

    def choose(self, options: tuple[str, ...]) -> str:
        return options[0] if self.rng is None else options[self.rng.integers(len(options))]

    def sentence(self, kind: Kind, **slots: Any) -> str:
        words = {"extent": self.choose(self.language.extents)}
        if "segment" in slots:
            words["segment"] = self.choose(self.language.segments[slots["segment"]])
        if "percent" in slots:
            words["percent"] = self.percent(slots["percent"])
            words["severity"] = self.language.severities[slots["severity"]]
        if "grade" in slots:
            words["grade"] = self.language.grades[slots["grade"]]
        text = self.choose(self.language.templates[kind]).format(**words)
        return text if text.startswith(words.get("segment", "\0")) else text[0].upper() + text[1:]

    def percent(self, value: int) -> str:
        """Readers write one number in many ways; a range stands for its middle."""
        forms = [f"{value} %", f"{value}%", f"{value}.0 %"]
        if 5 < value < 95:
            forms.append(f"{value - 5}-{value + 5} %")
        return self.choose(tuple(forms))


@dataclass(frozen=True)
class _Statement:
    kind: Kind
    segment: str | None = None
    percent: int = 0
    grade: str = "none"


_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_SPACED_DECIMAL = re.compile(r"(?<=\d)\s*\.\s*(?=\d+\s*%)")
_PERCENT = r"(?P<percent>\d+(?:[.,]\d+)?)(?:\s*[-\u2013]\s*(?P<upper>\d+(?:[.,]\d+)?))?\s*%"


def _statements(text: str) -> Iterator[tuple[str, _Statement | None]]:
    for sentence in _SENTENCE_END.split(_SPACED_DECIMAL.sub(".", text.strip())):
        if sentence.strip(".!? "):
            yield sentence, _match(sentence)


def _bare(text: str) -> str:
    """Lower case without accents and white space: what is left of a word whichever tokenizer it went through."""
    letters = unicodedata.normalize("NFD", text.lower())
    return "".join(each for each in letters if not unicodedata.combining(each) and not each.isspace())


def _match(sentence: str) -> _Statement | None:
    sentence = _bare(sentence).rstrip(".!?")
    for kind, pattern, segments, grades in _patterns():
        found = pattern.fullmatch(sentence)
        if found:
            slots = found.groupdict()
            segment = segments.get(slots.get("segment") or "")
            return _Statement(
                kind, segment, _read_percent(slots), grades.get(slots.get("grade") or "", "none")
            )
    return None


def _read_percent(slots: dict[str, str | None]) -> int:
    """Rounded percent, the middle of a range; 0 where there is none, capped at 100."""
    lower, upper = slots.get("percent"), slots.get("upper")
    if lower is None:
        return 0
    ends = [float(end.replace(",", ".")) for end in (lower, upper or lower)]
    return min(round(sum(ends) / 2), 100)


@cache
def _patterns() -> list[tuple[Kind, re.Pattern[str], dict[str, str], dict[str, str]]]:
    """(kind, pattern, segment word -> prefix, grade word -> grade) of every template in every language."""
    compiled = []
    for language in LANGUAGES:
        segments = {_bare(word): prefix for prefix, words in language.segments.items() for word in words}
        grades = {_bare(word): grade for grade, word in language.grades.items()}
        slots = {
            "segment": f"(?P<segment>{_any_of(segments)})",
            "percent": _PERCENT,
            "severity": f"(?:{_any_of(map(_bare, language.severities.values()))})",
            "grade": f"(?P<grade>{_any_of(grades)})",
            "extent": f"(?:{_any_of(map(_bare, language.extents))})",
        }
        for kind, templates in language.templates.items():
            for template in templates:
                literal = re.escape(_bare(template).rstrip(".")).replace(r"\{", "{").replace(r"\}", "}")
                compiled.append((kind, re.compile(literal.format(**slots)), segments, grades))
    return compiled


def _any_of(words: Any) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _collect(statements: list[_Statement]) -> SideFindings:
    about: dict[str, list[_Statement]] = {}
    for statement in statements:
        if statement.segment:
            about.setdefault(statement.segment, []).append(statement)
    lesions = [lesion for segment in SEGMENTS if (lesion := _lesion_from(segment, about.get(segment, [])))]
    diseased = {lesion.segment for lesion in lesions}
    significant = any(lesion.stenosis_percent >= 50 for lesion in lesions)
    kinds = [statement.kind for statement in statements]
    return SideFindings(
        side=_last_suffix(kinds, "side_"),
        dominance=_last_suffix(kinds, "dominance_"),
        lesions=tuple(lesions),
        normal=tuple(segment for segment in about if segment not in diseased),
        no_significant_stenosis="no_significant_stenosis" in kinds and not significant,
    )


def _lesion_from(segment: str, statements: list[_Statement]) -> Lesion | None:
    diseased = [statement for statement in statements if statement.kind != "normal"]
    kinds = {statement.kind for statement in diseased}
    percent = max((statement.percent for statement in diseased), default=0)
    cto = "cto" in kinds
    grade = max((statement.grade for statement in diseased), key=_GRADE_ORDER.index, default="none")
    stent = bool(kinds & {"stent_patent", "stent_restenosis"})
    thrombus = "thrombus" in kinds
    if not (cto or percent or stent or thrombus or grade != "none"):
        return None
    return Lesion(segment, 100 if cto else percent, cto, grade, thrombus, stent)


_GRADE_ORDER = ("none", "mild", "moderate", "severe")


def _last_suffix(kinds: list[Kind], prefix: str) -> Any:
    named = [kind.removeprefix(prefix) for kind in kinds if kind.startswith(prefix)]
    return named[-1] if named else None
