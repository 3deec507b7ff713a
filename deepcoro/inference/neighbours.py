"""Training reports near to what a model is shown, and what their films were labelled: EchoPrime's way of reading a study."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deepcoro.bank import Reading as RowReading
from deepcoro.bank import read_reports, report_bank, reports_nearest
from deepcoro.config import ConfigError
from deepcoro.inference.prediction import NearReport, Reading
from deepcoro.sample import StudyRecord

_SHOWN = 3


class Neighbours:
    """The reports of a bank, for studies that the bank need not know."""

    def __init__(self, folder: Path, digest: str, num_neighbours: int = 50) -> None:
        """`digest`: of the weights that answer; only their own bank lies in their space. ConfigError for the bank of others."""
        self._table, checkpoint = read_reports(folder)
        if not checkpoint.endswith(f"({digest})"):
            raise ConfigError(
                f"the bank '{folder}' was written by {checkpoint}, and the weights that answer are {digest}: name its checkpoint with "
                "--load, or write the bank anew"
            )
        if num_neighbours < 1:
            raise ConfigError(f"neighbours is {num_neighbours}; take 1 or more")
        self._num = num_neighbours

    def of(
        self, study: StudyRecord, rows: Float[np.ndarray, "row dim"]
    ) -> tuple[list[list[NearReport]], list[Reading]]:
        """The nearest reports of each row (L2-normalised), and what the neighbours of all rows say. None of the study's own patient; with
        no other in the bank, nothing.
        """
        reports = report_bank(self._table, study.patient, study.study)
        if not reports.texts:
            return [[] for _ in rows], []
        near, said = [], []
        for row in rows:
            found, readings = reports_nearest(reports, row, _SHOWN, self._num)
            near.append(
                [
                    NearReport(text=each.text, similarity=each.similarity, num_films=each.num_films)
                    for each in found
                ]
            )
            said.append(readings)
        return near, _of_study(said)


def _of_study(of_rows: Sequence[Sequence[RowReading]]) -> list[Reading]:
    """As findings: the mean over the rows that something is said of."""
    of_label: dict[str, list[RowReading]] = defaultdict(list)
    for each in (reading for readings in of_rows for reading in readings):
        of_label[each.label].append(each)
    return [
        Reading(
            label=label,
            value=float(np.mean([each.value for each in said])),
            lowest=min(each.value for each in said),
            highest=max(each.value for each in said),
            overall=said[0].overall,
            num_rows=len(said),
            known=min(each.known for each in said),
        )
        for label, said in of_label.items()
    ]
