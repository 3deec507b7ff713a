"""Texts and edges (SigLIP data) out of reports, and weights of edges by how rare their kind of text is."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from deepcoro.config import DataError
from deepcoro.ingest.built_reports import Sentence
from deepcoro.ingest.table import Table

Row = dict[str, str]


def texts_and_edges(
    table: Table, ids: Sequence[str], reports: Sequence[tuple[Sentence, ...] | None]
) -> tuple[list[Row], list[Row]]:
    """Rows of texts.csv (a distinct sentence each, numbered in order of the alphabet) and of edges.csv (a film's `ids` columns and a text).

    A sentence that only names the tree is no text: it is true of half of all films.
    """
    said = {each for report in reports for each in report or () if not each.kind.startswith("side_")}
    # grouped by thousands: five digits in a row are taken for a record number, and scrubbed
    id_of = {each: f"T{number:_}" for number, each in enumerate(sorted(said), start=1)}
    texts = [
        {"text_id": name, "prompt_text": each.text, "prompt_type": each.kind} for each, name in id_of.items()
    ]
    edges = [
        {column: row[column] or "" for column in ids} | {"text_id": id_of[each]}
        for row, report in zip(table.rows, reports, strict=True)
        for each in dict.fromkeys(report or ())
        if each in id_of
    ]
    return texts, edges


def weighted(
    edges: Sequence[Mapping[str, str]], kind_of_text: Mapping[str, str], beta: float, cap_percentile: float
) -> list[Row]:
    """The edges with a `weight`: the inverse effective number of edges of their kind of text, (1 - beta) / (1 - beta^n), capped at a
    percentile and scaled so that the largest is 1. Cui et al. 2019, arXiv:1901.05555.

    Where we differ from DeepCORO_CLIP: the scale, since a weight here is a share. DataError for an edge to a text that is not there.
    """
    lost = sum(edge["text_id"] not in kind_of_text for edge in edges)
    if lost or not edges:
        raise DataError(f"{lost} of {len(edges)} edges lead to no text of the table; complete the texts")
    kinds = [kind_of_text[edge["text_id"]] for edge in edges]
    counts = Counter(kinds)
    rarity = np.array([(1 - beta) / (1 - beta ** counts[kind]) for kind in kinds])
    rarity = np.minimum(rarity, np.percentile(rarity, cap_percentile))
    return [
        dict(edge) | {"weight": f"{weight:.6g}"}
        for edge, weight in zip(edges, rarity / rarity.max(), strict=True)
    ]
