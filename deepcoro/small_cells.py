"""Counts on pages to share: how a small one is told, and which cells beside it are withheld so that it does not follow (complementary
suppression; Hundepool et al., Statistical Disclosure Control, 2012).

A total is the sum of what is told of its parts, never of the parts themselves: so no total, and no difference of totals, tells more than
the cells beside it do.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from deepcoro.aggregates import FEWEST, is_small

PERSONS = ("patients", "studies")
"""What is counted of people: studies where the data name no patients."""
WORD = "withheld"


@dataclass(frozen=True)
class Told:
    """What a page says of a count: the least and the most that it may be."""

    low: int
    high: int | None
    """None = no bound."""

    @property
    def is_exact(self) -> bool:
        return self.low == self.high

    def __add__(self, other: "Told") -> "Told":
        is_bounded = self.high is not None and other.high is not None
        return Told(self.low + other.low, self.high + other.high if is_bounded else None)

    def __str__(self) -> str:
        if self.is_exact:
            return f"{self.low:,}"
        if self.high is None:
            return WORD if self.low <= 1 else f"{self.low:,} or more"
        if self.low <= 1:
            return f"fewer than {self.high + 1:,}" if self.low else WORD
        return f"{self.low:,} to {self.high:,}"


WITHHELD = Told(1, None)
"""Some, and nothing more."""


def told(count: int, fewest: int = FEWEST, persons: int | None = None) -> Told:
    """`persons`: those whom the count is of, where it does not count persons: sixteen films of four patients are four patients."""
    if is_small(count, fewest):
        return Told(1, fewest - 1)
    return WITHHELD if persons is not None and is_small(persons, fewest) else Told(count, count)


def total(parts: Iterable[Told]) -> Told:
    """Of what is told."""
    return sum(parts, Told(0, 0))


def told_units(counts: Mapping[str, int | None], fewest: int = FEWEST) -> dict[str, Told | None]:
    """`patients` (None: not named), `studies` and `films` of a split."""
    persons = next(counts[name] for name in PERSONS if counts.get(name) is not None)
    return {name: None if count is None else told(count, fewest, persons) for name, count in counts.items()}


def told_summary(
    summary: Mapping[str, object], of_split: Mapping[str, int | None], fewest: int = FEWEST
) -> dict[str, object]:
    """The counts of an evaluation; words stay as they are. `of_split`: how many there are of a unit in the split, where it is known.

    Beside those, what was evaluated would count out a few that could not be read: then it is told as far as that small count is.
    """
    counts = {name: value for name, value in summary.items() if isinstance(value, int)}
    persons = next((counts[name] for name in PERSONS if name in counts), None)
    shown = {name: told(count, fewest, persons) for name, count in counts.items()}
    narrowed = {
        name: Told(max(whole - fewest + 1, 1), whole - 1)
        for name, each in shown.items()
        if each.is_exact and (whole := of_split.get(name)) is not None and is_small(whole - each.low, fewest)
    }
    if "studies" in narrowed and "patients" in shown and of_split.get("patients") is None:
        narrowed["patients"] = WITHHELD
    return {**summary, **shown, **narrowed}


def told_cells(
    cell: Int[np.ndarray, " owner"],
    patient: Int[np.ndarray, " owner"],
    num_cells: int,
    fewest: int = FEWEST,
    unprinted: Sequence[int] = (),
) -> list[Told]:
    """How often each cell is met, where the reader knows how many owners there are in all.

    With a cell of few patients the smallest others are withheld, until those withheld are of enough patients together and leave each
    other room: whichever is small, it may be `fewest` as well. Cells that no page prints (`unprinted`) go first, since that costs
    nothing. Where there is never room enough, all go. A cell withheld looks the same whether it is small or not.
    """
    counts = np.bincount(cell, minlength=num_cells)
    hidden = [code for code in range(num_cells) if is_small(_persons(patient, cell == code), fewest)]
    if not hidden:
        return [Told(count, count) for count in counts.tolist()]
    others = [code for code in np.argsort(counts, kind="stable").tolist() if counts[code]]
    others = sorted(set(others) - set(hidden), key=lambda code: (code not in unprinted, others.index(code)))
    while not _leave_room(counts[hidden], _persons(patient, np.isin(cell, hidden)), fewest):
        if not others:
            hidden = list(range(num_cells))
            break
        hidden.append(others.pop(0))
    most = int(counts[hidden].sum())
    return [Told(0, most) if code in hidden else Told(int(counts[code]), int(counts[code])) for code in range(num_cells)]  # fmt: skip


def _leave_room(counts: Int[np.ndarray, " cell"], persons: int, fewest: int) -> bool:
    """Whether the sum of cells, none of which is empty, tells of enough people, and of no cell that it is small."""
    return len(counts) > 1 and persons >= fewest and int(counts.sum()) - len(counts) + 1 >= fewest


def _persons(patient: Int[np.ndarray, " owner"], chosen: np.ndarray) -> int:
    return len(np.unique(patient[chosen]))
