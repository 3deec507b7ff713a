"""Everything that `tools/shortcuts.py` asks of a model, in one record."""

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from deepcoro import checkpoint
from deepcoro.build import Parts
from deepcoro.explain.metadata import Baseline, Judged, metadata_baseline
from deepcoro.explain.paired import beside_metadata, differences, gaps
from deepcoro.explain.shortcuts import CHANGES, CLIP_CHANGES, measure_changes
from deepcoro.metrics.zero_shot import Task
from deepcoro.objectives import linear_probing
from deepcoro.report_shortcuts import Shortcuts
from deepcoro.run_config import RunConfig
from deepcoro.statistics.findings import class_part

_MEASURES = ("auroc", "auprc", "macro_auroc", "mae")
"""Those that a baseline without films has."""


def compare_shown_less(
    model: nn.Module, config: RunConfig, parts: Parts, split: str, labels: Sequence[str] = ()
) -> Shortcuts:
    """Clips are taken away only where samples are studies and the pooler weighs them; a sentence says so where not."""
    # now: a run that still trains may name another best one before the evaluations are through
    saved = checkpoint.find(config.checkpoint_folder, config.checkpoint.load)
    takes_clips = config.data.multi_video and model.pooler.weighs_clips
    notes = (
        []
        if takes_clips
        else ["No clip was taken away: samples are single films, or the pooler does not weigh clips."]
    )
    numbers, rows, whole = measure_changes(
        model, config, parts, split, CHANGES | (CLIP_CHANGES if takes_clips else {})
    )
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
        metadata_of=_metadata_of(config, label_of),
        paired=paired,
        gaps=gaps(*(rows[name] for name in without), numbers[without[0]]) if takes_clips else {},
        notes=[*notes, *told, *unpaired],
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


def _label_of(config: RunConfig) -> dict[str, str]:
    """Question (`objective/head`, `zero_shot/task`) -> label that holds its truth."""
    of_tasks = {f"zero_shot/{name}": task.label for name, task in _tasks(config).items()}
    return of_tasks | {
        f"{name}/{head}": objective.column_of(head) for name, objective, head in _heads(config)
    }


def _metadata_of(config: RunConfig, label_of: Mapping[str, str]) -> dict[str, str]:
    """Of each question's numbers those of its label's baseline; of a head of several words also those of each."""
    beside = {
        f"{name}/{measure}": f"{label}/{measure}" for name, label in label_of.items() for measure in _MEASURES
    }
    for name, objective, head in _heads(config):
        for word in objective.labels_map.get(head, {}):
            of_word = f"{name}/{head}/class={class_part(word)}", f"{objective.column_of(head)}={word}"
            beside |= {f"{of_word[0]}/{measure}": f"{of_word[1]}/{measure}" for measure in _MEASURES[:2]}
    return beside


def _metadata(
    config: RunConfig, parts: Parts, split: str, asked: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[list[Baseline], list[str]]:
    """Baselines, and all that could not be had."""
    field = config.data.fields.get("labels")
    takes_worst = field is not None and field.conflict == "max"
    judged = Judged(config.data.multi_video, config.data.num_videos, takes_worst)
    known = set(parts.shards.films.names)
    found = [
        metadata_baseline(parts.shards, label, split, judged, classes)
        for label, classes in asked
        if label in known
    ]
    absent = [f"metadata/{label}: the data have no such label" for label, _ in asked if label not in known]
    return found, [*absent, *(note for each in found for note in each.notes)]
