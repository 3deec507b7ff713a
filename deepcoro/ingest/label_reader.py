"""The labels of each film: cells read by their rules, then what the film cannot show taken out."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from deepcoro.config import DataError
from deepcoro.ingest.aliases import canonical_columns
from deepcoro.ingest.film import StudySource
from deepcoro.ingest.filmed import REASONS, Reason, Shown, reason_against
from deepcoro.ingest.labels import (
    Column,
    Derived,
    LabelRules,
    Unreadable,
    Value,
    derived_columns,
    fraction_complaint,
    settle,
)
from deepcoro.ingest.scrubber import Scrubber
from deepcoro.ingest.table import Cells, Table

logger = logging.getLogger(__name__)

Label = tuple[str, Value | None]
CONTEXT = ("main_structure", "status", "contrast_agent", "selected", "part", "quality", "image_quality")
"""Labels that say what a film is. They are for choosing films, and may have one value throughout."""

_TRIAL = 100
"""Below so many training films one class may be chance."""


class _Mask(NamedTuple):
    """Which columns a kind of film can show, and for the others the reason."""

    reasons: tuple[Reason | None, ...]
    keeps_all: bool


class LabelReader:
    """Reads the label columns of a table, one row at a time. Equal cells share one object: 200,000 rows of 90 labels fit in memory."""

    def __init__(
        self,
        table: Table,
        columns: Sequence[str],
        rules: LabelRules,
        derive: Sequence[str] = (),
        scrubber: Scrubber | None = None,
    ) -> None:
        names = canonical_columns(table.columns)
        self.rules = rules
        self.scrubber = scrubber or Scrubber()
        self.columns: list[Column] = [
            settle(
                column,
                names[column],
                rules.rule_of(names[column]),
                lambda column=column: _cells(table, column),
            )
            for column in columns
        ]
        self.derived: list[Derived] = derived_columns(self.columns, derive, rules)
        self.set_aside: Counter[Reason] = Counter()
        self._pick = table.picker(columns)
        self.row = 0
        self._values = [_Memo(column, self) for column in self.columns]
        self._missing = [(column.name, None) for column in self.columns]
        self._masks: dict[Shown, _Mask] = {}
        _warn_unused(rules, self.names)

    @property
    def names(self) -> list[str]:
        """Canonical names, derived columns last."""
        return [*(column.name for column in self.columns), *(each.name for each in self.derived)]

    @property
    def renamed(self) -> dict[str, str]:
        """Name in the table -> canonical name, where they differ."""
        return {column.source: column.name for column in self.columns if column.source != column.name}

    def read(self, number: int, cells: Cells, film: Shown) -> tuple[Label, ...]:
        """Labels of the film in row `number`; what it cannot show is None. Unreadable cells are told all at once by `finish`."""
        self.row = number
        labels = [memo[cell] for memo, cell in zip(self._values, self._pick(cells), strict=True)]
        mask = self._masks.get(film) or self._mask(film)
        if not mask.keeps_all:
            self._hide(labels, mask)
        for each in self.derived:
            percent = labels[each.source][1]
            labels.append((each.name, None if percent is None else float(each.holds(percent))))
        return tuple(labels)

    def _mask(self, film: Shown) -> _Mask:
        reasons = tuple(reason_against(column.name, film) for column in self.columns)
        mask = self._masks[film] = _Mask(reasons, not any(reasons))
        return mask

    def _hide(self, labels: list[Label], mask: _Mask) -> None:
        for place, reason in enumerate(mask.reasons):
            if reason is not None and labels[place][1] is not None:
                labels[place] = self._missing[place]
                self.set_aside[reason] += 1

    def finish(self) -> None:
        """DataError that names every column with cells that do not fit its rule, and a row for each."""
        bad = [complaint for memo in self._values if (complaint := memo.complaint or memo.of_fractions())]
        if bad:
            more = f"; and {len(bad) - 8} more columns" if len(bad) > 8 else ""
            raise DataError(
                "label cells do not fit their rule: "
                + "; ".join(bad[:8])
                + more
                + "; correct the table, declare --label_rules, or name other --label_columns",
                topic="labels",
            )

    def check_classes(
        self, studies: Iterable[StudySource], allow_constant: bool, asked_for: bool = False
    ) -> None:
        """DataError for yes-or-no, grade and word columns with one value over the training films: a head would learn nothing.

        Columns that were found, not asked for (by name, by a rule of the user's, by --derive), are only warned of in a
        trial of fewer than 100 films. A column without any value is always only warned of: it is masked.
        """
        films = [film.labels for study in studies if study.split == "train" for film in study.films]
        if not films:
            return
        wrong, excused, empty = [], [], []
        for place, name in self._with_classes():
            values = Counter(labels[place][1] for labels in films)
            values.pop(None, None)
            if not values:
                empty.append(name)
            elif len(values) == 1:
                is_error = asked_for or len(films) >= _TRIAL or self._is_asked_for(place)
                (wrong if is_error and not allow_constant else excused).append(_told(name, values))
        if empty:
            logger.warning("labels without a value in any training film: %s", _listed(empty))
        if excused:
            logger.warning("labels with one class only in the training films: %s", _listed(excused))
        if wrong:
            raise DataError(
                f"labels with one class only in the training films: {_listed(wrong)}; a head learns nothing from one class:"
                " leave them out (--label_columns names those to take), correct their rule (--label_rules), or pass"
                " --allow_constant_labels",
                topic="labels",
            )

    def _with_classes(self) -> Iterable[tuple[int, str]]:
        for place, name in enumerate(self.names):
            is_derived = place >= len(self.columns)
            if is_derived or (
                self.columns[place].kind in ("binary", "grade", "word") and name not in CONTEXT
            ):
                yield place, name

    def _is_asked_for(self, place: int) -> bool:
        """Derived, or under a rule of the user's."""
        if place >= len(self.columns):
            return True
        rule = self.rules.rule_of(self.columns[place].name)
        return any(rule is each for each in self.rules.rules.values())

    def summary(self) -> list[str]:
        """Lines for the user: renames, and how many values were set aside for which reason."""
        lines = [f"{old} -> {new}" for old, new in self.renamed.items()]
        counts = [f"{self.set_aside[reason]} {reason}" for reason in REASONS if self.set_aside[reason]]
        if counts:
            lines.append(f"values set to not assessed: {', '.join(counts)}")
        return lines


def _told(name: str, values: Counter[Value]) -> str:
    value, count = next(iter(values.items()))
    return (
        f"{name} = {value:g} ({count} films)"
        if isinstance(value, float)
        else f"{name} = {value} ({count} films)"
    )


def _listed(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _cells(table: Table, column: str) -> Iterable[str | None]:
    pick = table.picker([column])
    return (pick(row)[0] for row in table.rows if row is not None)


def _warn_unused(rules: LabelRules, names: Sequence[str]) -> None:
    used = {id(rules.rule_of(name)) for name in names}
    unused = [pattern for pattern, rule in rules.rules.items() if id(rule) not in used]
    if unused:
        logger.warning("label rules that no label column follows: %s", ", ".join(unused))


class _Memo(dict[str | None, Label]):
    """Cell -> label of one column; remembers the first row whose cell could not be read."""

    def __init__(self, column: Column, reader: LabelReader) -> None:
        super().__init__()
        self.column = column
        self.reader = reader
        self.complaint: str | None = None

    def of_fractions(self) -> str | None:
        complaint = fraction_complaint(self.column, (value for _, value in self.values()))
        return complaint and f"{self.column.source} ({complaint})"

    def __missing__(self, cell: str | None) -> Label:
        try:
            value = self.reader.scrubber.label(self.column.source, self.column.read(cell))
        except Unreadable as error:
            value = None
            self.complaint = self.complaint or f"{self.column.source} (row {self.reader.row}: {error})"
        label = self[cell] = (self.column.name, value)
        return label
