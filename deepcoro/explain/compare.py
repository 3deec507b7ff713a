"""Everything that `tools/shortcuts.py` asks of a model, in one record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from deepcoro import checkpoint
from deepcoro.build import Parts
from deepcoro.calibrated import read_calibration
from deepcoro.explain.metadata import Baseline, Judged, metadata_baseline
from deepcoro.explain.paired import beside_metadata, differences, gaps
from deepcoro.explain.shortcuts import CHANGES, CLIP_CHANGES, measure_changes
from deepcoro.metrics.zero_shot import Task
from deepcoro.objectives import linear_probing
from deepcoro.report_shortcuts import Shortcuts, has_baseline
from deepcoro.run_config import RunConfig
from deepcoro.statistics.findings import class_part

_EITHER_WAY = ("auroc", "brier", "ece", "accuracy", "balanced_accuracy")
"""Measures that stay when yes and no change places."""


def compare_shown_less(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    split: str,
    labels: Sequence[str] = (),
    captions: bool = False,
) -> Shortcuts:
    """Clips are taken away only where samples are studies and the pooler weighs them, and reports written with less to see only where
    `captions` are asked for; a sentence says so where not.
    """
    # now: a run that still trains may name another best one before the evaluations are through
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    takes_clips = config.data.multi_video and model.pooler.weighs_clips
    changes = CHANGES | (CLIP_CHANGES if takes_clips else {})
    known = read_calibration(config.run_dir, saved.digest())
    numbers, rows, whole = measure_changes(model, config, parts, split, changes, captions, known)
    paired = {
        name: differences(rows["whole"], each, numbers["whole"])
        for name, each in rows.items()
        if name != "whole"
    }
    asked = _asked(config, whole.shares_space, labels)
    baselines, told = _metadata(config, parts, split, asked)
    label_of = _label_of(config)
    foretold = [each.foretold for each in baselines if each.foretold is not None]
    *both, unpaired = beside_metadata(rows["whole"], whole.units, label_of, foretold)
    paired["metadata"] = differences(*both, numbers["whole"])
    numbers["metadata"] = {key: value for each in baselines for key, value in each.numbers.items()}
    without = [f"without_{which}_clip" for which in ("random", "top")]
    return Shortcuts(
        split=split,
        data_fingerprint=parts.shards.fingerprint,
        checkpoint=saved.title(),
        numbers=numbers,
        metadata_of=_metadata_of(config, label_of, numbers),
        paired=paired,
        gaps=gaps(*(rows[name] for name in without), numbers[without[0]]) if takes_clips else {},
        notes=[*_not_taken(config, takes_clips, captions), *told, *unpaired],
    )


def _not_taken(config: RunConfig, takes_clips: bool, captions: bool) -> Iterator[str]:
    """What was not asked of this run."""
    if not takes_clips:
        yield "No clip was taken away: samples are single films, or the pooler does not weigh clips."
    if not captions and any(each.type == "captioning" for each in config.objectives.values()):
        yield "No report was written with less to see: tools/shortcuts.py RUN --captions does, and takes as long as writing all of them four to six times."


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


def _label_of(config: RunConfig) -> dict[str, str]:
    """Question (`objective/head`, `zero_shot/task`) -> label that holds its truth."""
    of_tasks = {f"zero_shot/{name}": task.label for name, task in _tasks(config).items()}
    return of_tasks | {
        f"{name}/{head}": objective.column_of(head) for name, objective, head in _heads(config)
    }


def _metadata_of(
    config: RunConfig, label_of: Mapping[str, str], numbers: Mapping[str, Mapping[str, float]]
) -> dict[str, str]:
    """Of each question's numbers those of its label's baseline; of a head of several words also those of each."""
    beside = dict(label_of)
    for name, objective, head in _heads(config):
        for word in objective.labels_map.get(head, {}):
            beside[f"{name}/{head}/class={class_part(word)}"] = f"{objective.column_of(head)}={word}"
    pairs = {
        f"{question}/{measure}": f"{label}/{measure}"
        for question, label in beside.items()
        for measure in dict.fromkeys(key.rpartition("/")[2] for key in numbers["metadata"])
    }
    turned = {f"{name}/{head}" for name, objective, head in _heads(config) if _is_turned(objective, head)}
    return {
        key: own
        for key, own in pairs.items()
        if key in numbers["whole"] and own in numbers["metadata"] and has_baseline(key)
        if key.rpartition("/")[0] not in turned or key.rpartition("/")[2] in _EITHER_WAY
    }


def _is_turned(objective: linear_probing.Config, head: str) -> bool:
    """Whether a head says yes to the word that the columns say no to: theirs is the later one in the alphabet."""
    words = objective.labels_map.get(head, {})
    return objective.num_classes(head) == 2 and bool(words) and words[max(words)] == 0


def _metadata(
    config: RunConfig, parts: Parts, split: str, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[list[Baseline], list[str]]:
    """Baselines, and all that could not be had."""
    field = config.data.fields.get("labels")
    takes_worst = field is not None and field.conflict == "max"
    judged = Judged(config.data.multi_video, config.data.num_videos, takes_worst)
    decides = next((each for each in config.evaluate.metrics.values() if each.type == "classification"), None)
    if decides is not None:
        judged = replace(judged, rule=decides.threshold, specificities=tuple(decides.specificities))
    bins = next((each.bins for each in config.evaluate.metrics.values() if each.type == "calibration"), None)
    judged = judged if bins is None else replace(judged, num_bins=bins)
    known = set(parts.shards.films.names)
    found = [
        metadata_baseline(parts.shards, label, split, judged, classes)
        for label, classes in asked
        if label in known
    ]
    absent = [f"metadata/{label}: the data have no such label" for label, _ in asked if label not in known]
    return found, [*absent, *(note for each in found for note in each.notes)]
