"""Drawings of time to an event: Kaplan-Meier curves of patients by what the model foretold, with the number still followed below."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from deepcoro.evaluated import Followed
from deepcoro.report_figures import COLOURS, INK, MUTED, STYLE, as_svg
from deepcoro.statistics.survival import num_at_risk, survival_band, survival_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUP_COLOURS = (COLOURS[2], COLOURS[4], COLOURS[1])


@dataclass(frozen=True)
class RiskGroup:
    """Patients whom the model foretold alike."""

    words: str
    times: Float[np.ndarray, "patient"]
    events: Bool[np.ndarray, "patient"]


def survival_figures(followed: Mapping[str, Followed]) -> list[str]:
    """Of every outcome with an event and two groups."""
    found = {name: risk_groups(each) for name, each in followed.items() if each.event.any()}
    return [_figure(name, groups) for name, groups in found.items() if len(groups) > 1]


def risk_groups(followed: Followed) -> list[RiskGroup]:
    """From the lowest to the highest risk: below val's threshold of the head and from it on; without one, thirds of these patients.

    A patient of several rows has the mean of their scores, once for each follow-up that the rows tell of.
    """
    keys = np.stack([followed.patient.astype(np.float64), followed.time, followed.event], axis=1)
    people, place = np.unique(keys, axis=0, return_inverse=True)
    place = place.reshape(-1)
    score = np.bincount(place, followed.score) / np.bincount(place)
    if followed.threshold is not None:
        names, edges = ["below the threshold of val", "from it on"], [followed.threshold]
    else:
        names, edges = ["lowest third", "middle third", "highest third"], np.quantile(score, [1 / 3, 2 / 3])
    group = np.digitize(score, edges)
    return [
        RiskGroup(name, people[group == number, 1], people[group == number, 2] > 0)
        for number, name in enumerate(names)
        if (group == number).any()
    ]


def _figure(name: str, groups: list[RiskGroup]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    title = name.partition("/")[2].replace("_", " ")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.2, 3.9 + 0.25 * len(groups)), layout="constrained")
        heights = {"height_ratios": [3.0, 0.3 + 0.25 * len(groups)]}
        curves, below = figure.subplots(2, 1, sharex=True, gridspec_kw=heights)
        colours = dict(zip((each.words for each in groups), _colours(len(groups)), strict=True))
        for group in groups:
            _draw(curves, group, colours[group.words])
        longest = max(group.times.max() for group in groups)
        curves.set_xlim(-0.03 * longest, 1.02 * longest)
        curves.set_ylim(-0.02, 1.02)
        curves.set_ylabel("free of the event")
        curves.set_title(f"{title}: Kaplan–Meier by foretold risk", loc="left", fontsize=10.5, color=INK)
        curves.legend(loc="lower left", fontsize=8.5)
        _write_numbers(below, groups, colours, [tick for tick in curves.get_xticks() if tick >= 0])
        return as_svg(figure, f"Kaplan-Meier curves of {title} by risk group, with the number at risk")


def _colours(count: int) -> tuple[str, ...]:
    return (_GROUP_COLOURS[0], _GROUP_COLOURS[-1]) if count == 2 else _GROUP_COLOURS


def _draw(axes: "Axes", group: RiskGroup, colour: str) -> None:
    """Steps with their 95 % band; a tick where somebody was no longer followed."""
    times, free = survival_curve(group.times, group.events)
    low, high = survival_band(group.times, group.events)
    along, up = np.concatenate([[0.0], times]), np.concatenate([[1.0], free])
    label = f"{group.words} ({int(group.events.sum())} of {len(group.times)} had it)"
    axes.step(along, up, where="post", color=colour, linewidth=2, label=label)
    axes.fill_between(times, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
    censored = np.unique(group.times[~group.events])
    axes.plot(censored, free[np.searchsorted(times, censored)], "|", color=colour, markersize=7)


def _write_numbers(
    axes: "Axes", groups: list[RiskGroup], colours: Mapping[str, str], ticks: list[float]
) -> None:
    """Number at risk, a line a group."""
    shown = [tick for tick in ticks if tick <= axes.get_xlim()[1]]
    for row, group in enumerate(groups):
        for tick, count in zip(shown, num_at_risk(group.times, np.array(shown)), strict=True):
            axes.text(
                tick, row, str(count), ha="center", va="center", fontsize=8.5, color=colours[group.words]
            )
    axes.set_ylim(len(groups) - 0.5, -0.9)
    axes.set_yticks(range(len(groups)), [group.words for group in groups])
    axes.set_title("number at risk", loc="left", fontsize=8.5, color=MUTED)
    axes.set_xlabel("time, in the unit of the table")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
