"""What a label cell says, by a rule declared for its column: known, negative, or not assessed. Nothing is guessed from a gap."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic

from deepcoro.angiography.vocabulary import severity_floor
from deepcoro.config import Block, ConfigError, parse, read_tree
from deepcoro.ingest import aliases
from deepcoro.ingest.columns import number_of_cell
from deepcoro.ingest.table import NONE

Value = float | str
Kind = Literal["percent", "binary", "grade", "number", "word", "auto"]

_LONGEST_WORD = 64
_CONDITION = re.compile(r"\s*(>=|>)\s*(\d+(?:\.\d+)?)\s*")


class Rule(Block):
    """How the cells of the columns that match a pattern are read."""

    kind: Kind
    """percent: 0 to 100; binary: 1 or 0; grade: none, mild, moderate, severe; number; word: as it stands, at most 64
    letters; auto: the first of binary, number, grade, word that all cells of the column are."""
    absent: Literal["negative", "not_assessed"] = "not_assessed"
    """What an empty cell says. `negative` only where the reader of the table looked at every segment and wrote down what he found."""
    missing_codes: tuple[float | str, ...] = ()
    """Cells that say not assessed."""
    positive: tuple[str, ...] = ()
    """Further words for 1, beside true, yes, oui."""
    negative: tuple[str, ...] = ()
    """Further words for 0 (for `none` in a grade), beside false, no, non."""
    words: dict[str, str] = {}
    """Further words of a grade or word column: as written -> as kept."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Rule":
        if self.absent == "negative" and self.kind not in _NEGATIVE:
            raise ValueError(f"absent: negative has no meaning for kind {self.kind}; allowed: {[*_NEGATIVE]}")
        if self.positive and self.kind != "binary":
            raise ValueError(f"positive words belong to kind binary, not {self.kind}")
        if self.negative and self.kind not in ("binary", "grade"):
            raise ValueError(f"negative words belong to kind binary or grade, not {self.kind}")
        if self.words and self.kind not in ("grade", "word"):
            raise ValueError(f"words belong to kind grade or word, not {self.kind}")
        return self


_NEGATIVE: dict[str, Value] = {"percent": 0.0, "binary": 0.0, "grade": "none"}


def _floor(severity: Literal["moderate", "severe"]) -> str:
    return f">= {severity_floor(severity):g}"


class LabelRules(Block):
    """The rules of a table: FILE of --label_rules. A column takes the first rule that matches its canonical name, yours first."""

    rules: dict[str, Rule] = {}
    """Column or pattern (`*_cto`) -> rule."""
    thresholds: dict[str, str] = {"severe": _floor("severe"), "significant": _floor("moderate")}
    """Name -> condition on a diameter stenosis in percent; the name is the suffix of the columns that --derive adds."""
    not_assessed_status: tuple[str, ...] = ("PCI",)
    """Status of films on which the coronary findings of the diagnostic reading do not hold; add POST_PCI where the labels are those before."""

    @pydantic.field_validator("thresholds")
    @classmethod
    def _check_conditions(cls, thresholds: dict[str, str]) -> dict[str, str]:
        for name, condition in thresholds.items():
            if not _CONDITION.fullmatch(condition):
                raise ValueError(f"{name}: '{condition}' is no condition; write '>= 70' or '> 70'")
        return thresholds

    def rule_of(self, column: str) -> Rule:
        """The rule of a canonical column."""
        for pattern, rule in (*self.rules.items(), *_DEFAULTS.items()):
            if fnmatch.fnmatchcase(column, pattern) or aliases.canonical_column(pattern) == column:
                return rule
        return Rule(kind="auto")

    def condition(self, name: str) -> Callable[[float], bool]:
        """The threshold of that name as a test of a percentage. ConfigError when there is none."""
        if name not in self.thresholds:
            raise ConfigError(
                f"--derive '{name}' is no threshold; allowed: {sorted(self.thresholds)}; more with --label_rules"
            )
        sign, number = _CONDITION.fullmatch(self.thresholds[name]).groups()
        floor = float(number)
        return (lambda percent: percent >= floor) if sign == ">=" else (lambda percent: percent > floor)


_UNKNOWN = (-1.0,)
_DEFAULTS: dict[str, Rule] = {
    "*_IFRHYPEREMIE": Rule(
        kind="number", missing_codes=(0.0, -1.0)
    ),  # in the cath-lab's export 0 is an empty field
    "*_stenosis": Rule(kind="percent", missing_codes=_UNKNOWN),
    "*_qca": Rule(kind="percent", missing_codes=_UNKNOWN),
    "lvef": Rule(kind="percent", missing_codes=_UNKNOWN),
    "*_calcif": Rule(kind="grade", missing_codes=_UNKNOWN),
    "*_cto": Rule(kind="binary", missing_codes=_UNKNOWN),
    "*_thrombus": Rule(kind="binary", missing_codes=_UNKNOWN),
    "*_stent": Rule(kind="binary", missing_codes=_UNKNOWN),
    "*_pcidone": Rule(kind="binary", missing_codes=_UNKNOWN),
    "cto": Rule(kind="binary", missing_codes=_UNKNOWN),
    "contrast_agent": Rule(kind="binary", missing_codes=_UNKNOWN),
    "stent_presence": Rule(kind="binary", missing_codes=_UNKNOWN),
    "diabetes": Rule(kind="binary", missing_codes=_UNKNOWN),
    "syntax*": Rule(kind="auto", missing_codes=_UNKNOWN),
    "mace*": Rule(kind="auto", missing_codes=_UNKNOWN),
    "*_timi": Rule(kind="number", missing_codes=_UNKNOWN),
    "*_binary": Rule(kind="auto", missing_codes=_UNKNOWN),
    "calcification": Rule(kind="auto", missing_codes=_UNKNOWN),
    "*_bifurcation": Rule(kind="word", missing_codes=_UNKNOWN),
    "*_collateral": Rule(kind="word", missing_codes=_UNKNOWN),
    "dominance": Rule(kind="word", missing_codes=_UNKNOWN),
    "status": Rule(kind="word"),
    "main_structure": Rule(kind="word"),
}
"""Rules of the columns that these tables have, in the order in which they are tried."""


def read_rules(path: Path | None) -> LabelRules:
    """The rules of a YAML file before the defaults; the defaults alone without one."""
    if path is None:
        return LabelRules()
    if not path.is_file():
        raise ConfigError(f"label_rules: {path} does not exist")
    return parse(LabelRules, read_tree(path), str(path))


def is_percentage(column: str) -> bool:
    """Whether a label column is one of percentages by the shipped rules, under any of the names that such columns have."""
    return LabelRules().rule_of(aliases.canonical_column(column)).kind == "percent"


class Unreadable(ValueError):
    """The cell does not fit its rule; the message says what would."""


class Column(NamedTuple):
    """A label column whose rule is settled: `read` turns a cell into a value, None = not assessed, or raises Unreadable."""

    source: str
    """Its name in the table."""
    name: str
    """Its canonical name."""
    kind: Kind
    """Never `auto`."""
    read: Callable[[str | None], Value | None]


def settle(source: str, name: str, rule: Rule, cells: Callable[[], Iterable[str | None]]) -> Column:
    """The column under its rule. `cells` is called, for its distinct cells, only when the rule is `auto`."""
    kind = rule.kind
    if kind == "auto":
        distinct = set(cells())
        kind = next(
            each for each in ("binary", "number", "grade", "word") if _fits(rule, each, name, distinct)
        )
    return Column(source, name, kind, _reader(rule, kind, name))


def _fits(rule: Rule, kind: Kind, name: str, cells: Iterable[str | None]) -> bool:
    if kind == "word":
        return True
    read = _reader(rule, kind, name)
    try:
        values = [read(cell) for cell in cells]
    except Unreadable:
        return False
    return any(value is not None for value in values)


def _reader(rule: Rule, kind: Kind, name: str) -> Callable[[str | None], Value | None]:
    missing = {_key(code) for code in rule.missing_codes}
    empty = _NEGATIVE.get(kind) if rule.absent == "negative" else None
    meaning = _meaning(rule, kind, name)

    none_is_a_word = _says_none(rule, kind, name)

    def read(cell: str | None) -> Value | None:
        if cell is None or (cell.lower() == NONE and not none_is_a_word):
            return empty
        return None if _key(cell) in missing else meaning(cell)

    return read


def _says_none(rule: Rule, kind: Kind, name: str) -> bool:
    """Whether `none` is a finding in this column (no calcification, no bifurcation lesion), not an empty field."""
    words = (*rule.positive, *rule.negative, *rule.words, *aliases.known_words(name))
    return kind == "grade" or NONE in map(str.lower, words)


def _key(cell: float | str) -> float | str:
    """-1, "-1" and "-1.0" are one code."""
    number = number_of_cell(str(cell))
    return str(cell).strip().lower() if number is None else number


def _meaning(rule: Rule, kind: Kind, name: str) -> Callable[[str], Value]:
    if kind == "binary":
        words = dict.fromkeys((*aliases.TRUE, *map(str.lower, rule.positive)), 1.0)
        words |= dict.fromkeys((*aliases.FALSE, *map(str.lower, rule.negative)), 0.0)
        return lambda cell: _known(cell, words, "neither yes nor no")
    if kind == "grade":
        grades: dict[str, Value] = {
            **aliases.grade_words(),
            **dict.fromkeys(map(str.lower, rule.negative), "none"),
        }
        grades |= {word.lower(): kept for word, kept in rule.words.items()}
        return lambda cell: _known(cell, grades, f"no grade ({', '.join(aliases.GRADES)})")
    if kind == "percent":
        return _percent
    if kind == "number":
        return _number
    known = aliases.known_words(name) | {word.lower(): kept for word, kept in rule.words.items()}
    return lambda cell: _word(cell, known)


def _known(cell: str, words: Mapping[str, Value], otherwise: str) -> Value:
    """1.0 is 1; case does not count."""
    number = number_of_cell(cell)
    value = words.get(cell.lower() if number is None else f"{number:g}")
    if value is None:
        raise Unreadable(otherwise)
    return value


def _number(cell: str) -> float:
    number = number_of_cell(cell)
    if number is None:
        raise Unreadable("no number")
    return number


def _percent(cell: str) -> float:
    number = number_of_cell(cell.removesuffix("%").strip())
    if number is None or not 0 <= number <= 100:
        raise Unreadable("no percentage from 0 to 100")
    return number


def fraction_complaint(column: Column, values: Iterable[Value | None]) -> str | None:
    """What is wrong when a column of percentages holds nothing above 1: each of them would be read as hardly a stenosis."""
    largest = max((value for value in values if isinstance(value, float)), default=0.0)
    if column.kind != "percent" or not 0 < largest <= 1:
        return None
    return "no value above 1: fractions, or yes and no? Write percentages from 0 to 100, or declare another kind (--label_rules)"


def _word(cell: str, known: Mapping[str, str]) -> str:
    word = " ".join(cell.split())
    if len(word) > _LONGEST_WORD:
        raise Unreadable(f"longer than {_LONGEST_WORD} letters: a label is a word or a code, not a text")
    number = number_of_cell(word)
    return known.get(word.lower() if number is None else f"{number:g}", word)


class Derived(NamedTuple):
    """A column that a threshold adds: `prox_lad_severe` out of `prox_lad_stenosis`."""

    name: str
    source: int
    """Place of its stenosis column among the label columns."""
    holds: Callable[[float], bool]


def derived_columns(columns: Sequence[Column], names: Sequence[str], rules: LabelRules) -> list[Derived]:
    """One column for each threshold and stenosis. ConfigError when a name is no threshold, is taken, or there is no stenosis."""
    found = [(place, column) for place, column in enumerate(columns) if column.name.endswith("_stenosis")]
    if names and not found:
        raise ConfigError(
            "--derive needs label columns that end in _stenosis; the table has none among its labels"
        )
    taken = {column.name for column in columns}
    result = []
    for name in names:
        holds = rules.condition(name)
        for place, column in found:
            new = f"{column.name.removesuffix('_stenosis')}_{name}"
            if new in taken:
                raise ConfigError(
                    f"--derive {name}: the table already has a label '{new}'; drop one of the two"
                )
            result.append(Derived(new, place, holds))
    return result
