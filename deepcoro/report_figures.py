"""The drawings of the report: matplotlib to SVG that stands inside the page, in the page's own letters."""

import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1c2733", "#66727f", "#e3e8ed"
COLOURS = ("#0b5c8a", "#c2571a", "#4d7d2a", "#7a4b94", "#9a7b00")
_MOST_POINTS = 400

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "deepcoro",
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "axes.edgecolor": "#aab4be",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Curve:
    """One line over optimiser steps."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Scored:
    """Zero-shot scores of the assessed films of one task."""

    label: str
    scores: np.ndarray
    positive: np.ndarray
    positive_word: str = "yes"
    negative_word: str = "no"
    family: str = ""
    """Prefix of its numbers."""


def new_figure(
    width_in: float, height_in: float, rows: int = 1, columns: int = 1
) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.reshape(-1))


def as_svg(figure: "Figure", description: str) -> str:
    """The drawing as an `<svg>` element: no XML head, no metadata (it links to vocabularies), no ids but those referred to."""
    import matplotlib

    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', drawing))
    drawing = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referred else "", drawing)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def curve_figure(curves: Sequence[Curve], title: str, smoothed: bool = True, x_label: str = "step") -> str:
    """Lines over steps (or what `x_label` says); where smoothed, a long line is drawn pale with its running mean on top."""
    lines = tuple((each.label, tuple(each.steps), tuple(each.values)) for each in curves)
    return _drawn_curves(lines, title, smoothed, x_label)


@functools.lru_cache(maxsize=32)
def _drawn_curves(
    lines: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...],
    title: str,
    smoothed: bool,
    x_label: str,
) -> str:
    """Drawn once for the page and for its twin to share: drawing is most of what a short run takes."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(4.3, 2.6)
        for (label, *points), colour in zip(lines, COLOURS, strict=False):
            steps, values = _thin(*(np.asarray(each, float) for each in points))
            is_noisy = smoothed and len(values) > 30
            if is_noisy:
                axes.plot(steps, values, color=colour, alpha=0.28, linewidth=0.9)
            marker = "o" if len(values) < 12 else None
            axes.plot(
                steps,
                _running_mean(values) if is_noisy else values,
                color=colour,
                linewidth=1.8,
                marker=marker,
                markersize=4,
                label=label,
            )
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel(x_label)
        # Not as mathematical text: parsing that was half of the drawing.
        axes.ticklabel_format(axis="y", scilimits=(-3, 5))
        if len(lines) > 1:
            axes.legend(fontsize=8.5, loc="best")
        return as_svg(figure, title)


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of neighbours, so that a long run does not make a heavy page."""
    if len(steps) <= _MOST_POINTS:
        return steps, values
    edges = np.linspace(0, len(steps), _MOST_POINTS + 1).astype(int)[:-1]
    counts = np.diff(edges, append=len(steps))
    return np.add.reduceat(steps, edges) / counts, np.add.reduceat(values, edges) / counts


def _running_mean(values: np.ndarray) -> np.ndarray:
    window = max(1, len(values) // 20)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(0, last - window)
    return (sums[last] - sums[first]) / (last - first)


def roc_figure(tasks: Sequence[Scored]) -> str:
    """Sensitivity against 1 − specificity of each task, with the diagonal that guessing gives."""
    import matplotlib
    from sklearn.metrics import roc_curve

    with matplotlib.rc_context(STYLE):
        figure, (axes,) = new_figure(4.3, 3.9)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="guessing")
        for task, colour in zip(tasks, COLOURS, strict=False):
            false_positive, true_positive, _ = roc_curve(task.positive, task.scores)
            axes.plot(false_positive, true_positive, color=colour, linewidth=2, label=task.label)
        axes.set_aspect("equal")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
        axes.set_xlabel("false alarms (1 − specificity)")
        axes.set_ylabel("found (sensitivity)")
        axes.legend(loc="lower right", fontsize=8.5)
        return as_svg(figure, "ROC curves of the zero-shot tasks")


def histogram_figure(tasks: Sequence[Scored]) -> str:
    """Scores of films with and without each finding."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, each_axes = new_figure(4.3, 1.3 * len(tasks), rows=len(tasks))
        for axes, task in zip(each_axes, tasks, strict=True):
            positive = task.positive.astype(bool)
            edges = np.histogram_bin_edges(task.scores, bins=24)
            parts = ((positive, COLOURS[0], task.positive_word), (~positive, COLOURS[1], task.negative_word))
            for chosen, colour, name in parts:
                share = np.full(int(chosen.sum()), 1.0 / max(1, int(chosen.sum())))
                axes.hist(task.scores[chosen], edges, weights=share, color=colour, alpha=0.55, label=name)
            axes.set_title(task.label, loc="left", fontsize=9.5, color=INK)
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines["left"].set_visible(False)
            axes.legend(fontsize=8.5, loc="upper right")
        return as_svg(figure, "Distribution of the zero-shot scores")
