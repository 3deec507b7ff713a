"""Drawings of what heads say: ROC, precision-recall and reliability of a finding, scatter and Bland-Altman of a number."""

from collections.abc import Mapping

import numpy as np

from deepcoro.report_figures import COLOURS, INK, MUTED, STYLE, as_svg, new_figure
from deepcoro.scored import Answer
from deepcoro.statistics.calibration import reliability

_MOST_DRAWN = 8
_MOST_POINTS = 2000


def head_figures(answers: Mapping[str, Answer]) -> list[str]:
    """Of the heads that say the most: those with most positives, and those with most rows. The tables have all of them."""
    findings = {
        name: each
        for name, each in answers.items()
        if each.task == "binary_classification" and _has_both(each)
    }
    numbers = {
        name: each for name, each in answers.items() if each.task == "regression" and _known(each).sum() > 1
    }
    findings = dict(sorted(findings.items(), key=lambda item: -np.nansum(item[1].truth))[:_MOST_DRAWN])
    numbers = dict(sorted(numbers.items(), key=lambda item: -_known(item[1]).sum())[:_MOST_DRAWN])
    drawn = [finding_figure(name, each) for name, each in findings.items()]
    return drawn + [number_figure(name, each) for name, each in numbers.items()]


def finding_figure(name: str, answer: Answer) -> str:
    """ROC, precision against recall, and said against found, with the threshold of val on the first two."""
    import matplotlib
    from sklearn.metrics import precision_recall_curve, roc_curve

    known = _known(answer)
    positive, score = answer.truth[known] >= 0.5, answer.said[known, 0].astype(np.float64)
    called = None if answer.threshold is None else score >= answer.threshold
    with matplotlib.rc_context(STYLE):
        figure, (roc, recall, bins) = new_figure(10.2, 3.3, columns=3)
        alarms, found, _ = roc_curve(positive, score)
        _draw(roc, alarms, found, [0, 1], [0, 1])
        _label(roc, "ROC", "false alarms (1 − specificity)", "found (sensitivity)")
        precision, share, _ = precision_recall_curve(positive, score)
        _draw(recall, share, precision, [0, 1], [positive.mean()] * 2)
        _label(recall, "Precision and recall", "found (recall)", "right among called (precision)")
        if called is not None and called.any():
            hit = called[positive].mean()
            roc.plot([called[~positive].mean()], [hit], "o", color=COLOURS[1], label="threshold of val")
            recall.plot([hit], [positive[called].mean()], "o", color=COLOURS[1])
            roc.legend(loc="lower right", fontsize=8.5)
        curve = reliability(score, positive, 10)
        _draw(bins, curve.said, curve.found, [0, 1], [0, 1], marker="o")
        _label(bins, "Reliability", "probability said", "share found")
        figure.suptitle(_title(name), x=0.01, ha="left", fontsize=10.5, color=INK)
        return as_svg(figure, f"ROC, precision-recall and reliability curves of {_title(name)}")


def number_figure(name: str, answer: Answer) -> str:
    """Said against true, and their difference over their mean with bias and limits of agreement (Bland and Altman 1986)."""
    import matplotlib

    known = np.flatnonzero(_known(answer))
    said, truth = answer.said[known, 0].astype(np.float64), answer.truth[known]
    apart = said - truth
    bias, spread = apart.mean(), 1.96 * apart.std(ddof=1)
    shown = np.random.default_rng(0).permutation(len(said))[:_MOST_POINTS]
    with matplotlib.rc_context(STYLE):
        figure, (scatter, difference) = new_figure(10.2, 3.6, columns=2)
        ends = [min(said.min(), truth.min()), max(said.max(), truth.max())]
        scatter.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        scatter.plot(truth[shown], said[shown], "o", color=COLOURS[0], markersize=3.5, alpha=0.5)
        _label(scatter, "Said against true", "true", "said")
        difference.plot(
            (said + truth)[shown] / 2, apart[shown], "o", color=COLOURS[0], markersize=3.5, alpha=0.5
        )
        for height, style, word in (
            (bias, "-", "bias"),
            (bias - spread, ":", "limits"),
            (bias + spread, ":", None),
        ):
            difference.axhline(height, color=COLOURS[1], linestyle=style, linewidth=1.4, label=word)
        _label(difference, "Bland–Altman", "mean of said and true", "said − true")
        difference.legend(fontsize=8.5)
        figure.suptitle(_title(name), x=0.01, ha="left", fontsize=10.5, color=INK)
        return as_svg(figure, f"Scatter and Bland-Altman plot of {_title(name)}")


def _draw(axes, along, up, guess_along, guess_up, marker=None) -> None:
    axes.plot(guess_along, guess_up, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(along, up, color=COLOURS[0], linewidth=2, marker=marker, markersize=4)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


def _label(axes, title: str, along: str, up: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(along)
    axes.set_ylabel(up)


def _title(name: str) -> str:
    return name.partition("/")[2].replace("_", " ")


def _known(answer: Answer) -> np.ndarray:
    return ~np.isnan(answer.truth)


def _has_both(answer: Answer) -> bool:
    positive = answer.truth[_known(answer)] >= 0.5
    return bool(positive.any() and not positive.all())
