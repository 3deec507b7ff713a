"""Several runs with less to see in one table: a row a run and measure, as Markdown for people and as CSV for spreadsheets."""

import csv
import io
from collections.abc import Iterator, Mapping

from deepcoro.numerals import decimals, signed
from deepcoro.report_shortcuts import WORDS, Bounded, Shortcuts, headlines, shown_of, value_of

_LESS_BY = ("first_frame", "metadata")
"""What differences are told of in Markdown; CSV has all."""
_BOUNDS = ("", "_ci_low", "_ci_high")


def markdown(runs: Mapping[str, Shortcuts]) -> str:
    """By name of the run: values as it is and with less to see, and what they are less by, with the 95 % interval."""
    shown = _shown(runs)
    told = [name for name in _LESS_BY if name in shown]
    titles = [
        *(WORDS[name] for name in shown),
        *(f"as it is − {WORDS[name]} (95 % interval)" for name in told),
    ]
    lines = [f"| run | split | measure | {' | '.join(titles)} |", "|---" * (3 + len(titles)) + "|"]
    for run, found, key in _rows(runs):
        values = [decimals(value_of(found, name, key)[0]) if name in found.numbers else "–" for name in shown]
        apart = [_told(found.paired.get(name, {}).get(key)) for name in told]
        cells = [run, found.split, key, *values, *apart]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def csv_text(runs: Mapping[str, Shortcuts]) -> str:
    """The same with all intervals and all differences; an empty cell is not known."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shown = _shown(runs)
    columns = [f"{name}{part}{end}" for name in shown for part in ("", "_difference") for end in _BOUNDS]
    writer.writerow(
        ["run", "split", "measure", *(each for each in columns if not each.startswith("whole_diff"))]
    )
    for run, found, key in _rows(runs):
        cells: list[float | None] = []
        for name in shown:
            cells += value_of(found, name, key) if name in found.numbers else [None] * 3
            cells += found.paired.get(name, {}).get(key, [None] * 3) if name != "whole" else []
        writer.writerow([run, found.split, key, *cells])
    return buffer.getvalue()


def _told(apart: Bounded | None) -> str:
    return "–" if apart is None else f"{signed(apart[0])} ({signed(apart[1])} to {signed(apart[2])})"


def _shown(runs: Mapping[str, Shortcuts]) -> list[str]:
    """What some run was shown, in the order of `WORDS`."""
    return [name for name in WORDS if any(name in shown_of(found) for found in runs.values())]


def _rows(runs: Mapping[str, Shortcuts]) -> Iterator[tuple[str, Shortcuts, str]]:
    for run, found in runs.items():
        for key in headlines(found):
            yield run, found, key
