"""Everything that `tools/shortcuts.py` asks of a model, in one record."""

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from deepcoro.build import Parts
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.explain.metadata import metadata_baseline
from deepcoro.explain.shortcuts import CHANGES, CLIP_CHANGES, auroc_gap, measure_changes
from deepcoro.report_shortcuts import Shortcuts
from deepcoro.run_config import RunConfig


def compare_shown_less(
    model: nn.Module, config: RunConfig, parts: Parts, split: str, labels: Sequence[str] = ()
) -> Shortcuts:
    """Clips are taken away only where samples are studies and the pooler weighs them; a sentence says so where not."""
    takes_clips = config.data.multi_video and model.pooler.weighs_clips
    notes = (
        []
        if takes_clips
        else ["No clip was taken away: samples are single films, or the pooler does not weigh clips."]
    )
    numbers, rows = measure_changes(
        model, config, parts, split, CHANGES | (CLIP_CHANGES if takes_clips else {})
    )
    metric = next(
        (each.build() for each in config.evaluate.metrics.values() if each.type == "zero_shot"), None
    )
    tasks = metric.config.tasks if metric and rows["whole"].shares_space else {}
    metadata, told = _metadata(
        parts, split, [*dict.fromkeys([*(task.label for task in tasks.values()), *labels])]
    )
    return Shortcuts(
        split=split,
        numbers=numbers | {"metadata": metadata},
        metadata_of={f"zero_shot/{name}/auroc": f"{task.label}/auroc" for name, task in tasks.items()},
        gaps=_gaps([each.build() for each in config.evaluate.metrics.values()], rows) if takes_clips else {},
        notes=[*notes, *told],
    )


def _metadata(parts: Parts, split: str, labels: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    known = set(parts.shards.films.names)
    numbers: dict[str, float] = {}
    notes = [f"metadata/{label}: the data have no such label" for label in labels if label not in known]
    for label in labels:
        if label in known:
            found, told = metadata_baseline(parts.shards, label, split)
            numbers, notes = numbers | found, [*notes, *told]
    return numbers, notes


def _gaps(
    metrics: Sequence[Measurement], rows: Mapping[str, Evaluated]
) -> dict[str, tuple[float, float, float]]:
    """Of every yes/no question that a metric puts to each film and that both classes were seen of."""
    top, random = rows["without_top_clip"], rows["without_random_clip"]
    gaps = {}
    for metric in metrics:
        one, other = metric.answers(random), metric.answers(top)
        for key in one.keys() & other.keys():
            scores, truth = one[key]
            known = ~np.isnan(truth)
            if set(np.unique(truth[known])) == {0.0, 1.0}:
                patients = [patient for patient, each in zip(top.patients, known, strict=True) if each]
                gaps[key] = auroc_gap(scores[known], other[key][0][known], truth[known] == 1, patients)
    return gaps
