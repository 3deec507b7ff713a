"""The bank that searches read: embeddings of films, and reports of the train split with what their films were labelled.

A bank is the folder `embeddings` of a run, or of a model that was exported with it: `{data}_{split}_clips.parquet`, and `{data}_reports.parquet` where
`inference.reports` asked for it. That file has a row a report and study: `text`, `study`, `patient`, `num_films`, `label_NAME` (mean over
the films that were assessed; of a label in words `label_NAME=WORD`, its share) and `embedding`. It holds reports of the train split alone,
so that what a film of another split is told never comes from its own report; and of a film whose patient is in it after all, that
patient's rows take no part.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from jaxtyping import Float, Int

from deepcoro.bootstrap import mean_of_known
from deepcoro.config import ConfigError, DataError
from deepcoro.embeddings import METADATA, UNIT_SPACE, matrix, vectors
from deepcoro.evaluated import Evaluated
from deepcoro.kernels.tied_ranks import nearest
from deepcoro.label_means import means_of_groups, numeric_labels
from deepcoro.sample import text_id

REPORTS_SPLIT = "train"
_LABEL = "label_"
_HOW = "run_mode=inference inference.splits=[...] inference.reports=true writes one"
EXPORTED = "; a folder of tools/export_model.py has what --with_bank (films) and --with_reports took along"
"""End of a sentence about what a bank lacks, for those who were given it."""


@dataclass(frozen=True)
class ReportBank:
    """Distinct reports."""

    texts: Sequence[str]
    embeddings: Float[np.ndarray, "text dim"]
    """Of unit length."""
    num_films: Int[np.ndarray, " text"]
    """Training films that carry the report."""
    labels: Mapping[str, Float[np.ndarray, " text"]]
    """Mean label of these films, `NAME` or `NAME=WORD`; NaN = none was assessed."""

    def nearest(
        self, films: Float[np.ndarray, "film dim"], k: int
    ) -> tuple[Int[np.ndarray, "film k"], Float[np.ndarray, "film k"]]:
        """Rows of the k nearest reports of each film, best first, and their cosines."""
        return nearest(films, self.embeddings, k)

    def interpretation(self, rows: Int[np.ndarray, "film k"]) -> dict[str, Float[np.ndarray, " film"]]:
        """Each label as the mean over a film's nearest reports that know it; NaN where none does. As EchoPrime reads its neighbours
        (arXiv:2410.09704), with distinct reports in place of studies.
        """
        return {name: mean_of_known(values[rows], axis=1) for name, values in self.labels.items()}


def report_table(read: Evaluated) -> pyarrow.Table:
    """A row a report and study, in the order of films; a film without a report has none."""
    films = np.flatnonzero(read.text_of_film >= 0)
    pairs: dict[tuple[str, int], list[int]] = {}
    for film in films.tolist():
        pairs.setdefault((read.studies[film], int(read.text_of_film[film])), []).append(film)
    row_of_film = np.zeros(len(read.text_of_film), np.int64)
    for row, members in enumerate(pairs.values()):
        row_of_film[members] = row
    numbers = {
        f"{_LABEL}{name}": means_of_groups(values[films], row_of_film[films], len(pairs))
        for name, values in numeric_labels(read.labels).items()
    }
    first = [members[0] for members in pairs.values()]
    text_of_row = np.array([text for _, text in pairs], np.int64)
    return pyarrow.table(
        {
            "text": [read.texts[row] for row in text_of_row],
            "study": [study for study, _ in pairs],
            "patient": pyarrow.array([read.patients[film] for film in first], pyarrow.string()),
            "num_films": pyarrow.array([len(members) for members in pairs.values()], pyarrow.int32()),
            **{
                name: pyarrow.array(values, pyarrow.float32(), from_pandas=True)
                for name, values in numbers.items()
            },
            "embedding": vectors(read.text_embeddings[text_of_row]),
        }
    )


def report_bank(table: pyarrow.Table, patient: str | None = None, study: str | None = None) -> ReportBank:
    """The table's distinct reports, without those of a patient (or study) alone."""
    kept = [
        each != study and (patient is None or one != patient)
        for each, one in zip(table["study"].to_pylist(), table["patient"].to_pylist(), strict=True)
    ]
    table = table.filter(pyarrow.array(kept, pyarrow.bool_()))
    texts = table["text"].to_pylist()
    _, first, group = np.unique([text_id(text) for text in texts], return_index=True, return_inverse=True)
    order = np.argsort(first)
    group = np.argsort(order)[group.reshape(-1)]
    num_films = table["num_films"].to_numpy()
    embeddings = matrix(table["embedding"])
    return ReportBank(
        texts=[texts[row] for row in first[order]],
        embeddings=embeddings[first[order]],
        num_films=np.bincount(group, num_films, len(order)).astype(np.int64),
        labels={
            name.removeprefix(_LABEL): means_of_groups(
                table[name].to_numpy().astype(float), group, len(order)
            )
            for name in table.column_names
            if name.startswith(_LABEL)
        },
    )


@dataclass(frozen=True)
class FoundReport:
    """A training report among those nearest to a film."""

    text: str
    similarity: float
    num_films: int
    """Training films that carry it."""


@dataclass(frozen=True)
class Reading:
    """What the nearest reports say of a film under one label."""

    label: str
    value: float
    """Mean over those that know it: of a label of 0 and 1 (or of one word) a share, else in the label's unit."""
    known: int
    """Of the nearest reports, those with the label."""
    overall: float
    """The same mean over the whole bank: what would be said without looking."""


def reports_nearest(
    reports: ReportBank, query: Float[np.ndarray, " dim"], num_reports: int, num_neighbours: int
) -> tuple[list[FoundReport], list[Reading]]:
    """The first reports, and what the first `num_neighbours` of them say together (EchoPrime takes 50)."""
    rows, similarities = reports.nearest(query[None], max(num_reports, num_neighbours))
    shown = zip(rows[0, :num_reports].tolist(), similarities[0].tolist(), strict=False)
    found = [FoundReport(reports.texts[row], each, int(reports.num_films[row])) for row, each in shown]
    return found, _readings(reports, rows[:, :num_neighbours])


def _readings(reports: ReportBank, rows: Int[np.ndarray, "1 neighbour"]) -> list[Reading]:
    readings = []
    for label, values in reports.interpretation(rows).items():
        if np.isnan(values[0]):
            continue
        of_all = reports.labels[label]
        known = int((~np.isnan(of_all[rows[0]])).sum())
        readings.append(Reading(label, float(values[0]), known, float(np.nanmean(of_all))))
    return readings


@dataclass(frozen=True)
class Bank:
    """What a folder holds."""

    clips: pyarrow.Table
    """Rows of all `..._clips.parquet`."""
    reports: pyarrow.Table | None
    """None where no reports were asked for."""
    checkpoint: str
    """Which wrote them: `step N (DIGEST)`."""

    @property
    def embeddings(self) -> Float[np.ndarray, "clip dim"]:
        return matrix(self.clips["embedding"])


def bank_folder(path: str | Path) -> Path:
    """The folder of a bank: `path` itself, or `embeddings` in it where it is the folder of a run."""
    inside = Path(path) / "embeddings"
    return inside if inside.is_dir() else Path(path)


def read_reports(folder: Path) -> tuple[pyarrow.Table, str]:
    """The reports of a bank and which checkpoint wrote them. ConfigError where it holds none, or of several checkpoints."""
    tables = [pyarrow.parquet.read_table(path) for path in sorted(folder.glob("*_reports.parquet"))]
    checkpoints = {told_of(table.schema)["checkpoint"] for table in tables}
    if len(checkpoints) != 1:
        found = f"of several checkpoints ({sorted(checkpoints)})" if tables else "not there"
        raise ConfigError(f"the reports of the bank '{folder}' are {found}; {_HOW}{EXPORTED}")
    return pyarrow.concat_tables(tables, promote_options="default"), checkpoints.pop()


def read_bank(folder: Path, splits: Sequence[str] | None = None) -> Bank:
    """ConfigError when there is none, or its files are of several checkpoints or of no common space. `splits`: None = all there are."""
    paths = sorted(folder.glob("*_clips.parquet"))
    if not paths:
        raise ConfigError(f"'{folder}' holds no *_clips.parquet; {_HOW}{EXPORTED}")
    tables = [pyarrow.parquet.read_table(path) for path in paths]
    reports = [pyarrow.parquet.read_table(path) for path in sorted(folder.glob("*_reports.parquet"))]
    abouts = [told_of(table.schema) for table in [*tables, *reports]]
    checkpoints = {about["checkpoint"] for about in abouts}
    if len(checkpoints) > 1:
        raise ConfigError(
            f"the files of '{folder}' are of several checkpoints ({sorted(checkpoints)}); {_HOW} anew"
        )
    if not all(about["space"] == UNIT_SPACE for about in abouts):
        raise ConfigError(
            "films and texts of this run share no space; search needs a run with a contrastive objective"
        )
    clips = pyarrow.concat_tables(tables)
    if splits is not None:
        known = sorted(set(clips["split"].to_pylist()))
        if set(splits) - set(known):
            raise ConfigError(f"the bank has no films of {sorted(set(splits) - set(known))}; it has {known}")
        clips = clips.filter(pyarrow.compute.is_in(clips["split"], pyarrow.array(splits)))
    return Bank(
        clips,
        pyarrow.concat_tables(reports, promote_options="default") if reports else None,
        checkpoints.pop(),
    )


def told_of(schema: pyarrow.Schema) -> dict[str, Any]:
    """What a table of a bank says of itself, such as the `checkpoint` that wrote it. DataError where it says nothing."""
    metadata = schema.metadata or {}
    if METADATA not in metadata:
        raise DataError(f"a table of the bank does not say which checkpoint wrote it; {_HOW}")
    return json.loads(metadata[METADATA])
