"""Each measure with its interval, chance and control on one scale: marks of a page, whose words keep their size on a narrow screen."""

from collections.abc import Sequence
from dataclasses import dataclass

from deepcoro.numerals import fraction

_LEAST_BAND = 0.004


@dataclass(frozen=True)
class Measure:
    """One row, on a scale from 0 to 1."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    control_low: float | None = None
    control_high: float | None = None
    group: str = ""
    """Rows of one group stand together."""


@dataclass(frozen=True)
class Span:
    """From where to where, in per cent of the scale."""

    left: float
    width: float


@dataclass(frozen=True)
class IntervalRow:
    """The marks of one measure, in per cent of the scale; None is not drawn."""

    label: str
    told: str
    """The marks in words, for who cannot see them."""
    at: float
    chance: float | None
    interval: Span | None
    control: Span | None
    starts_group: bool


def interval_rows(measures: Sequence[Measure]) -> list[IntervalRow]:
    """In the order given; a gap belongs before a row that starts a group."""
    before = [None, *measures]
    return [
        IntervalRow(
            label=each.label,
            told=_told(each),
            at=_percent(each.value),
            chance=None if each.chance is None else _percent(each.chance),
            interval=_span(each.low, each.high),
            control=_span(each.control_low, each.control_high, _LEAST_BAND),
            starts_group=earlier is not None and earlier.group != each.group,
        )
        for earlier, each in zip(before, measures, strict=False)
    ]


def _told(measure: Measure) -> str:
    told = [fraction(measure.value)]
    if measure.low is not None and measure.high is not None:
        told.append(f"95 % interval {fraction(measure.low)} to {fraction(measure.high)}")
    if measure.chance is not None:
        told.append(f"guessing {fraction(measure.chance)}")
    if measure.control_low is not None and measure.control_high is not None:
        told.append(f"shuffled control {fraction(measure.control_low)} to {fraction(measure.control_high)}")
    return ", ".join(told)


def _span(low: float | None, high: float | None, least: float = 0.0) -> Span | None:
    """`least`: width that is drawn in any case."""
    if low is None or high is None:
        return None
    return Span(_percent(low), _percent(max(high - low, least)))


def _percent(value: float) -> float:
    return round(100 * value, 2)
