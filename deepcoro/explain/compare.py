"""Everything that `tools/shortcuts.py` asks of a model, in one record."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import nn

from deepcoro.build import Parts
from deepcoro.comparison import compare_scored
from deepcoro.evaluated import Evaluated, Measurement
from deepcoro.explain.metadata import Judged, metadata_baseline
from deepcoro.explain.shortcuts import CHANGES, CLIP_CHANGES, measure_changes
from deepcoro.metrics.zero_shot import Task
from deepcoro.objectives import linear_probing
from deepcoro.report_shortcuts import Shortcuts
from deepcoro.run_config import RunConfig
from deepcoro.scored import score_rows

_NUM_SAMPLES = 1000
_WORSE = {"auroc": 1.0, "macro_auroc": 1.0, "mae": -1.0}
"""Measures whose loss is told, and the sign that makes a loss of the difference (without a random clip less without the top clip)."""


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
    metrics = [each.build() for each in config.evaluate.metrics.values()]
    asked = _asked(config, rows["whole"].shares_space, labels)
    metadata, told = _metadata(config, parts, split, asked)
    return Shortcuts(
        split=split,
        numbers=numbers | {"metadata": metadata},
        metadata_of=_beside_heads(config) | _beside_tasks(config),
        gaps=gaps(metrics, rows["without_random_clip"], rows["without_top_clip"]) if takes_clips else {},
        notes=[*notes, *told],
    )


def _tasks(config: RunConfig) -> dict[str, Task]:
    """Of the zero-shot metric."""
    metrics = (each for each in config.evaluate.metrics.values() if each.type == "zero_shot")
    return next((each.tasks for each in metrics), {})


def _heads(config: RunConfig) -> Iterator[tuple[str, linear_probing.Config, str]]:
    """Objective, its block and a head of it."""
    for name, objective in config.objectives.items():
        if objective.type == "linear_probing":
            yield from ((name, objective, head) for head in objective.head_structure)


def _asked(config: RunConfig, has_tasks: bool, labels: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Labels, and the words of each that count (all where none is named)."""
    of_tasks = [(task.label, tuple(task.classes)) for task in _tasks(config).values()] if has_tasks else []
    of_heads = [(objective.column_of(head), ()) for _, objective, head in _heads(config)]
    return list(dict.fromkeys([*of_tasks, *of_heads, *((label, ()) for label in labels)]))


def _beside_tasks(config: RunConfig) -> dict[str, str]:
    return {f"zero_shot/{name}/auroc": f"{task.label}/auroc" for name, task in _tasks(config).items()}


def _beside_heads(config: RunConfig) -> dict[str, str]:
    """Of each head's numbers those of its column's baseline."""
    beside = {}
    for name, objective, head in _heads(config):
        column = objective.column_of(head)
        beside |= {f"{name}/{head}/{measure}": f"{column}/{measure}" for measure in ("auroc", "mae")}
        words = objective.labels_map.get(head, {})
        beside |= {f"{name}/{head}/class={word}/auroc": f"{column}={word}/auroc" for word in words}
    return beside


def _metadata(
    config: RunConfig, parts: Parts, split: str, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[dict[str, float], list[str]]:
    field = config.data.fields.get("labels")
    takes_worst = field is not None and field.conflict == "max"
    judged = Judged(config.data.multi_video, config.data.num_videos, takes_worst)
    known = set(parts.shards.films.names)
    numbers: dict[str, float] = {}
    notes = [f"metadata/{label}: the data have no such label" for label, _ in asked if label not in known]
    for label, classes in asked:
        if label in known:
            found, told = metadata_baseline(parts.shards, label, split, judged, classes)
            numbers, notes = numbers | found, [*notes, *told]
    return numbers, notes


def gaps(
    metrics: Sequence[Measurement], without_random: Evaluated, without_top: Evaluated
) -> dict[str, tuple[float, float, float]]:
    """By measure: how much worse a model is without the clip attended to most than without a random one, and the 95 % interval over the
    same resampled patients. A larger error is worse, a smaller AUROC.
    """
    one, other = (score_rows(each, metrics) for each in (without_random, without_top))
    found = {}
    for key, each in compare_scored([one], [other], "", _NUM_SAMPLES, 0).differences.items():
        measure = key.rsplit("/", 1)[-1]
        if measure in _WORSE and not np.isnan(each.value) and each.low is not None:
            low, high = sorted(_WORSE[measure] * bound for bound in (each.low, each.high))
            found[key] = (_WORSE[measure] * each.value, low, high)
    return found
