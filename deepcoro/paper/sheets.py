"""The tables of a report as files for a paper: LaTeX (booktabs) and CSV, in `run_dir/tables`; what rests on few is left out."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepcoro import atomic, report_captions, report_groups, report_heads, report_tables
from deepcoro.predictions import table as csv_text
from deepcoro.report import ReportInputs

FOLDER = "tables"
_SUFFIXES = ("_ci_low", "_ci_high", "_chance")
_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "≥": r"$\geq$",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "°": r"\textdegree{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
}


@dataclass(frozen=True)
class Sheet:
    """A table of words, ready to print anywhere."""

    name: str
    """Stem of its files."""
    caption: str
    columns: Sequence[str]
    """The first one holds the name of the row."""
    rows: Sequence[Sequence[str]]


def write_tables(run_dir: Path, inputs: ReportInputs) -> list[Path]:
    """Writes NAME.csv and NAME.tex for every table that has rows, and `measures.csv`, every number in full; returns the paths.

    `inputs` are those of the page to share (`report_aggregates.aggregates_of`). Tables of an earlier evaluation go.
    """
    folder = run_dir / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    if not inputs.results:
        return []
    written = [folder / "measures.csv"]
    atomic.write_text(written[0], csv_text(measures(inputs)))
    about = f"{inputs.run_name}, {inputs.data or 'unknown data'}, split {inputs.split or 'unknown'}, {inputs.checkpoint or 'unknown checkpoint'}"
    for sheet in sheets(inputs.results, inputs.strata, inputs.positives, inputs.unit):
        for suffix, text in (("csv", sheet_csv(sheet)), ("tex", latex(sheet, about))):
            written.append(folder / f"{sheet.name}.{suffix}")
            atomic.write_text(written[-1], text)
    return written


def sheet_csv(sheet: Sheet) -> str:
    """The sheet as comma-separated text."""
    return csv_text([dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows])


def measures(inputs: ReportInputs) -> list[dict[str, object]]:
    """A row a measure, with its bounds and chance level in their own columns."""
    results = inputs.results
    return [
        {"measure": key, "value": results[key]}
        | {suffix.removeprefix("_"): results.get(f"{key}{suffix}") for suffix in _SUFFIXES}
        for key in sorted(results)
        if not key.endswith(_SUFFIXES)
    ]


def sheets(
    results: report_tables.Results,
    strata: Sequence[str],
    positives: report_tables.Positives,
    unit: str = "films",
) -> Iterator[Sheet]:
    """Every table of the report, of the numbers given; strata and class words as in `report_tables.tables`, `unit` as in `ReportInputs`."""
    for table in report_tables.tables(results, strata, positives):
        yield Sheet(
            name=_file_name(table.heading),
            caption=f"{table.heading} ({table.caption})" if table.caption else table.heading,
            columns=("Measure", "This model", "95 % interval", "Guessing", "Shuffled control"),
            rows=[(row.label, row.value, row.interval, row.chance, row.control) for row in table.rows],
        )
    for table in report_captions.caption_tables(results):
        yield Sheet(
            name=_file_name(table.heading),
            caption=f"{table.heading} ({table.caption})",
            columns=("Measure", "This model", "95 % interval", "Most common", "Nearest", "Shuffled", "of"),
            rows=[
                (row.label, row.value, row.interval, row.modal, row.nearest, row.shuffled, row.rests_on)
                for row in table.rows
            ],
        )
    for table in report_heads.head_tables(results):
        yield Sheet(
            name=_file_name(table.heading),
            caption=f"{table.heading} ({table.caption})" if table.caption else table.heading,
            columns=("Finding", *table.columns),
            rows=[(row.label, *map(_words, row.cells)) for row in table.rows],
        )
    for table in report_groups.group_tables(results, unit):
        yield _of_groups(table)


def _of_groups(table: report_groups.GroupTable) -> Sheet:
    sizes = [f" ({size})" if size else "" for size in table.sizes]
    return Sheet(
        name=_file_name(f"by {table.column}"),
        caption=f"By {table.column}" + (f" ({table.caption})" if table.caption else ""),
        columns=("Measure", *(name + size for name, size in zip(table.groups, sizes, strict=True))),
        rows=[(row.label, *map(_words, row.cells)) for row in table.rows],
    )


def _words(cell: report_groups.Cell) -> str:
    """The value, then what it rests on."""
    return "; ".join((cell.value, *cell.notes))


def _file_name(heading: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", heading.lower()).strip("_")


def latex(sheet: Sheet, about: str) -> str:
    """A `table` environment; the document needs `\\usepackage{booktabs}`."""
    head, *body = [" & ".join(map(escaped, row)) + r" \\" for row in (sheet.columns, *sheet.rows)]
    lines = [
        f"% {about}; made by deepcoro, needs \\usepackage{{booktabs}}".replace("\n", " "),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(sheet.caption)}}}",
        rf"\label{{tab:{sheet.name}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}",
        *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escaped(words: str) -> str:
    """The words as LaTeX prints them; line ends become blanks."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(words.split()))
