"""Drawings of what heads call against what is true: counts, and the share of each true class in the colour of its cells."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from deepcoro.report_figures import COLOURS, INK, MUTED, STYLE, as_svg, new_figure
from deepcoro.scored import Answer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_DRAWN = 8
_A_ROW, _CLASSES_A_ROW = 4, 2
_MOST_CLASSES = 12
"""Cells of more would hold no number that can be read."""


def confusion_figures(answers: Mapping[str, Answer]) -> list[str]:
    """Of binary heads that val gave a threshold, those with most positives; of heads of several classes those with most rows."""
    found = {name: counted for name, each in answers.items() if (counted := confusion(each)) is not None}
    binary = [name for name in found if answers[name].task == "binary_classification"]
    binary = sorted(binary, key=lambda name: -found[name][1].sum())[:_MOST_DRAWN]
    several = [name for name in found if answers[name].task != "binary_classification"]
    several = sorted(several, key=lambda name: -found[name].sum())[:_MOST_DRAWN]
    words = {name: answers[name].classes or ("no", "yes") for name in (*binary, *several)}
    drawn = []
    for names, a_row in ((binary, _A_ROW), (several, _CLASSES_A_ROW)):
        for start in range(0, len(names), a_row):
            drawn.append(_figure({name: found[name] for name in names[start : start + a_row]}, words, a_row))
    return drawn


def confusion(answer: Answer) -> Int[np.ndarray, "truth said"] | None:
    """Rows by what is true and what the head called: the likeliest class, or a finding from val's threshold on. None where nothing is
    assessed, where a binary head has no threshold, and for numbers and scores."""
    known = ~np.isnan(answer.truth)
    said, truth = answer.said[known], answer.truth[known]
    if not known.any() or answer.task in ("regression", "zero_shot"):
        return None
    if answer.task == "binary_classification":
        if answer.threshold is None:
            return None
        return _counted(truth >= 0.5, said[:, 0].astype(np.float64) >= answer.threshold, 2)
    if said.shape[1] > _MOST_CLASSES:
        return None
    return _counted(truth, said.argmax(axis=1), said.shape[1])


def _counted(truth: np.ndarray, called: np.ndarray, num_classes: int) -> Int[np.ndarray, "truth said"]:
    cells = truth.astype(np.int64) * num_classes + called.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _figure(matrices: Mapping[str, np.ndarray], words: Mapping[str, Sequence[str]], a_row: int) -> str:
    """Beside each other, in cells that are high enough for two lines."""
    import matplotlib

    height = 1.1 + 0.62 * max(map(len, matrices.values()))
    with matplotlib.rc_context(STYLE):
        figure, each_axes = new_figure(10.2, min(height, 8.0), columns=a_row)
        for axes, (name, counts) in zip(each_axes, matrices.items(), strict=False):
            _draw(axes, counts, words[name])
            axes.set_title(_title(name), loc="left", fontsize=9.5, color=INK)
        for axes in each_axes[len(matrices) :]:
            axes.set_visible(False)
        return as_svg(figure, f"Called against true: {', '.join(map(_title, matrices))}")


def _draw(axes: "Axes", counts: np.ndarray, classes: Sequence[str]) -> None:
    """Squares, not a picture: the page stays sharp and small."""
    from matplotlib.patches import Rectangle

    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for (row, column), share in np.ndenumerate(counts / totals):
        axes.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, color=COLOURS[0], alpha=0.85 * share, linewidth=0)
        )
        colour = "#ffffff" if share > 0.6 else INK
        axes.text(
            column,
            row,
            f"{counts[row, column]}\n{share:.0%}",
            ha="center",
            va="center",
            fontsize=8.5,
            color=colour,
        )
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.set_xlabel("called", color=MUTED)
    axes.set_ylabel("true", color=MUTED)


def _title(name: str) -> str:
    return name.partition("/")[2].replace("_", " ")
