"""The drawings of a sweep's summary: a line a trial through all hyper-parameters, and what the best was as trials went on."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deepcoro.report_figures import COLOURS, INK, MUTED, STYLE, as_svg, new_figure
from deepcoro.sweeping.space import Parameter, value_text
from deepcoro.sweeping.sweep_file import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepcoro.sweeping.summary import Row


class _Scale:
    """Where values of one axis stand between 0 and 1, and what is written beside it: the whole range or all choices of the file."""

    def __init__(
        self, low: int | float, high: int | float, choices: Sequence[Any] = (), is_log: bool = False
    ):
        self._choices = [value_text(each) for each in choices]
        self._ends = (low, high)
        self._log = is_log

    @classmethod
    def of(cls, parameter: Parameter, drawn: Sequence[Any]) -> "_Scale":
        if parameter.choices:
            numbers = all(isinstance(each, int | float) for each in parameter.choices)
            return cls(0, 1, sorted(parameter.choices) if numbers else parameter.choices)
        bounded = parameter.low < parameter.high  # normal is not
        low, high = (parameter.low, parameter.high) if bounded else (min(drawn), max(drawn))
        return cls(low, high, is_log=parameter.is_log)

    def at(self, value: Any) -> float:
        if self._choices:
            return (self._choices.index(value_text(value)) + 0.5) / len(self._choices)
        low, high, place = (math.log(each) if self._log else each for each in (*self._ends, value))
        return 0.5 if high == low else (place - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self._choices:
            return [(self.at(choice), choice) for choice in self._choices]
        return [(self.at(value), value_text(float(value))) for value in self._round_values()]

    def _round_values(self) -> list[float]:
        from matplotlib import ticker

        low, high = self._ends
        if low == high:
            return [low]
        decades, finer = ticker.LogLocator(), ticker.LogLocator(subs=(1, 2, 5))
        for locator in (decades, finer) if self._log else (ticker.MaxNLocator(5),):
            inside = [value for value in locator.tick_values(low, high) if -1e-6 < self.at(value) < 1 + 1e-6]
            if len(inside) >= 3:
                return inside
        return [low, high]


def short_names(names: Sequence[str]) -> list[str]:
    """Keys by their last part, or by as many parts as tell them apart: optim.lr is lr."""
    parts = [name.split(".") for name in names]
    found = []
    for own in parts:
        length = next((n for n in range(1, len(own)) if sum(each[-n:] == own[-n:] for each in parts) == 1), len(own))  # fmt: skip
        found.append(".".join(own[-length:]))
    return found


def parallel_coordinates(space: Sequence[Parameter], metric: Metric, rows: Sequence["Row"]) -> str | None:
    """One axis a hyper-parameter and the metric at the right, one line a complete trial, darker where better; None without trials."""
    import matplotlib

    shown = [row for row in rows if row.state == "complete"]
    if not shown or not space:
        return None
    scales = [_Scale.of(each, [row.values[each.name] for row in shown]) for each in space]
    scales.append(_Scale(min(row.value for row in shown), max(row.value for row in shown)))
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(10.2, 4.2)
        # the best is drawn last, on top; of equal ones the first is the best
        order = sorted(shown, key=lambda row: (metric.cost(row.value), row.number), reverse=True)
        for place, row in enumerate(order):
            share = (place + 1) / len(order)
            points = [scale.at(value) for scale, value in zip(scales, _along(row, space), strict=True)]
            colour = COLOURS[1] if row is order[-1] else COLOURS[0]
            axes.plot(
                points, color=colour, alpha=0.15 + 0.85 * share**2, linewidth=1 + 1.2 * (row is order[-1])
            )
        _draw_axes(axes, scales, [*short_names([each.name for each in space]), metric.name])
        return as_svg(
            figure, "One line a trial through its hyper-parameters to its metric; the best one stands out"
        )


def _along(row: "Row", space: Sequence[Parameter]) -> list[Any]:
    return [*(row.values[parameter.name] for parameter in space), row.value]


def _draw_axes(axes: "Axes", scales: Sequence[_Scale], names: Sequence[str]) -> None:
    # lines pass behind the words
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    for place, scale in enumerate(scales):
        axes.axvline(place, color="#aab4be", linewidth=0.8)
        for height, text in scale.ticks():
            axes.text(place + 0.03, height, text, color=INK, fontsize=8, va="center", bbox=paper, zorder=9)
    lower = itertools.cycle(("", "\n"))  # long names stand in two rows
    axes.set_xticks(range(len(scales)), [next(lower) + name for name in names], color=INK, fontsize=8.5)
    axes.set_yticks([])
    axes.set_ylim(-0.04, 1.04)
    axes.set_xlim(-0.15, len(scales) - 0.6)
    axes.grid(visible=False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def progress_figure(metric: Metric, rows: Sequence["Row"]) -> str | None:
    """Each complete or pruned trial by number, and the best complete one so far; None without trials."""
    import matplotlib

    complete = [row for row in rows if row.state == "complete"]
    pruned = [row for row in rows if row.state == "pruned" and row.value is not None]
    if not complete:
        return None
    better = functools.partial(min, key=metric.cost)
    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(10.2, 2.6)
        axes.plot([row.number for row in complete], [row.value for row in complete], "o", color=COLOURS[0], markersize=4.5, label="trial")  # fmt: skip
        if pruned:
            axes.plot([row.number for row in pruned], [row.value for row in pruned], "x", color=MUTED, markersize=4.5, label="ended early")  # fmt: skip
        best = list(itertools.accumulate((row.value for row in complete), better))
        axes.step([row.number for row in complete], best, where="post", color=COLOURS[1], label="best so far")
        axes.set_xlabel("trial")
        axes.set_ylabel(metric.name)
        axes.legend(loc="best")
        return as_svg(figure, "The metric of each trial in order, and the best so far")
