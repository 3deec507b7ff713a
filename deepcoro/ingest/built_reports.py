"""Reports out of columns: what a table says of each segment, as the sentences of the report grammar.

Labels are read by the rules of `tools/shard_dataset.py`, so a film's report says nothing of what it does not show. Rows of a study that
disagree about a segment: the worst counts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render, sentences
from deepcoro.angiography.vocabulary import CALCIFICATIONS, SEGMENTS, SIDES, Dominance, Side
from deepcoro.config import ConfigError
from deepcoro.ingest.aliases import split_column
from deepcoro.ingest.columns import Roles
from deepcoro.ingest.filmed import Shown, ShownReader
from deepcoro.ingest.label_reader import LabelReader
from deepcoro.ingest.labels import LabelRules, Value
from deepcoro.ingest.table import Table

Scope = Literal["side", "study"]
KINDS = ("stenosis", "cto", "calcif", "thrombus", "stent")
"""Suffixes of columns of a segment that the grammar has words for."""


class Sentence(NamedTuple):
    """One statement of a report."""

    text: str
    kind: str
    """What it states: `stenosis_severe`, `cto`, `calcification`, `normal`, `dominance_right`, ..."""


class _Film(NamedTuple):
    study: str
    shown: Shown
    labels: Mapping[str, Value]
    """Canonical column -> what is known."""


def build_reports(
    table: Table, roles: Roles, rules: LabelRules, scope: Scope
) -> list[tuple[Sentence, ...] | None]:
    """The statements about each row's tree (`side`) or its whole study; None for a film of which nothing is known.

    ConfigError where no column speaks of a segment, DataError where a cell does not fit its rule.
    """
    columns = [name for name in table.columns if _is_read(name)]
    if not columns:
        raise ConfigError(
            f"no column speaks of a segment; names are such as {next(iter(SEGMENTS))}_stenosis, with one of {list(KINDS)} behind it"
        )
    films = _films(table, roles, columns, rules)
    known: dict[tuple[str, Side], dict[str, Value]] = {}
    for film in films:
        if film is not None and film.shown.side is not None:
            _join(known.setdefault((film.study, film.shown.side), {}), film.labels)
    dominance = {film.study: film.shown.dominance for film in films if film is not None}
    told = {
        (study, side): _statements(side, dominance[study], labels)
        for (study, side), labels in known.items()
        if labels
    }
    return [_of_film(film, told, scope) for film in films]


def _is_read(column: str) -> bool:
    parts = split_column(column)
    return parts is not None and parts[0] in SEGMENTS and parts[1] in KINDS


def _films(table: Table, roles: Roles, columns: Sequence[str], rules: LabelRules) -> list[_Film | None]:
    reader = LabelReader(table, columns, rules)
    shown = ShownReader(table, roles, rules.not_assessed_status)
    films: list[_Film | None] = []
    for number, row in enumerate(table.rows, start=1):
        if row is None or row[roles.study] is None:
            films.append(None)
            continue
        film = shown.read(number, row)
        labels = {name: value for name, value in reader.read(number, row, film) if value is not None}
        films.append(_Film(str(row[roles.study]), film, labels))
    reader.finish()
    return films


def _join(known: dict[str, Value], labels: Mapping[str, Value]) -> None:
    for name, value in labels.items():
        known[name] = max(known.get(name, value), value, key=_badness)


def _badness(value: Value) -> float:
    return float(CALCIFICATIONS.index(value)) if isinstance(value, str) else value


def _statements(side: Side, dominance: Dominance | None, labels: Mapping[str, Value]) -> tuple[Sentence, ...]:
    of_segment: dict[str, dict[str, Value]] = {}
    for name, value in labels.items():
        segment, kind = split_column(name)
        of_segment.setdefault(segment, {})[kind] = value
    lesions = [lesion for segment, found in of_segment.items() if (lesion := _lesion(segment, found))]
    diseased = {lesion.segment for lesion in lesions}
    normal = [each for each, found in of_segment.items() if each not in diseased and "stenosis" in found]
    findings = SideFindings(side, dominance, tuple(lesions), tuple(normal))
    return tuple(
        Sentence(text, _kind(kind, segment, findings)) for text, kind, segment in sentences(render(findings))
    )


def _lesion(segment: str, found: Mapping[str, Value]) -> Lesion | None:
    """None for a segment without disease. A CTO is a stenosis of 100 %, whatever the other column says."""
    is_cto = bool(found.get("cto"))
    percent = 100 if is_cto else round(float(found.get("stenosis", 0)))
    grade = str(found.get("calcif", "none"))
    has_thrombus, has_stent = bool(found.get("thrombus")), bool(found.get("stent"))
    if not (percent or has_thrombus or has_stent or grade != "none"):
        return None
    return Lesion(segment, percent, is_cto, grade, has_thrombus, has_stent)


def _kind(kind: str | None, segment: str | None, findings: SideFindings) -> str:
    lesion = findings.lesion_of(segment) if segment else None
    return f"{kind}_{lesion.severity}" if lesion and kind in ("stenosis", "stent_restenosis") else str(kind)


def _of_film(
    film: _Film | None, told: Mapping[tuple[str, Side], tuple[Sentence, ...]], scope: Scope
) -> tuple[Sentence, ...] | None:
    if film is None:
        return None
    if scope == "study":
        trees = [told[film.study, side] for side in SIDES if (film.study, side) in told]
        return tuple(sentence for tree in trees for sentence in tree) or None
    is_shown = film.shown.side is not None and film.shown.is_of_tree(film.shown.side)
    return told.get((film.study, film.shown.side)) if is_shown else None
