"""What a config says that cannot be meant. Told of what a user asks for, before anything is read; a run that is there already is read as it is.

A whole RunConfig comes in; each function raises the ConfigError, in one line, that names the key and what to change.
"""

from collections.abc import Iterator
from typing import Any

from deepcoro.config import ConfigError
from deepcoro.judged import BINARY, REGRESSION, listed
from deepcoro.statistics.directions import known_direction


def refuse_contradictions(config: Any) -> None:
    """Of any run; of a training also what would choose the wrong checkpoint, or never stop it."""
    _refuse_labels_of_nobody(config)
    _refuse_foreign_heads(config)
    if config.run_mode == "train":
        _refuse_worst_as_best(config)
        _refuse_idle_patience(config)


def _refuse_labels_of_nobody(config: Any) -> None:
    labels = config.data.fields.get("labels")
    if labels is not None and not labels.columns:
        raise ConfigError(
            "data.fields.labels.columns is empty, and no head reads a label; name at least one column, or leave the field out"
        )


def _refuse_foreign_heads(config: Any) -> None:
    """A run without heads is left alone: one of an ablation has the metrics of all."""
    tasks = dict(_tasks_of_heads(config))
    able = [head for head, task in tasks.items() if task in (BINARY, REGRESSION)]
    for key, metric in config.evaluate.metrics.items():
        outcomes = metric.outcomes if tasks and metric.type == "survival" else {}
        for name, outcome in outcomes.items():
            if outcome.head not in able:
                meant = [head for head in able if head.endswith(f"/{outcome.head}")]
                raise ConfigError(
                    f"evaluate.metrics.{key}.outcomes.{name}.head is '{outcome.head}', and a head is named OBJECTIVE/HEAD"
                    + (f"; did you mean '{meant[0]}'?" if meant else "")
                    + f"; heads that give a probability or a number: {listed(able) or 'none'}"
                )


def _tasks_of_heads(config: Any) -> Iterator[tuple[str, str]]:
    for name, objective in config.objectives.items():
        for head in objective.head_structure if objective.type == "linear_probing" else ():
            yield f"{name}/{head}", objective.task_of(head)


def refuse_changing_films(config: Any) -> None:
    """ValueError where a run that encodes each film once would show it otherwise later."""
    reading = [name for name, each in config.objectives.items() if getattr(each, "reads_films", False)]
    causes = {
        "freeze has phases with another video than 1": {each.video for each in config.freeze} - {None, 1},
        "augment changes films (set it to {})": config.augment != type(config.augment)(),
        "data.fields.video.jitter is true": config.data.fields["video"].jitter,
        f"objectives {reading} read the films themselves": reading,
    }
    found = [cause for cause, holds in causes.items() if holds]
    if found:
        raise ValueError(
            f"towers.video.cache_features is for films that never change, and {'; '.join(found)}; change that, or set it to false"
        )


def _refuse_worst_as_best(config: Any) -> None:
    metric, mode = config.evaluate.best_metric, config.evaluate.best_metric_mode
    known = known_direction(metric)
    if known not in (None, mode):
        raise ConfigError(
            f"evaluate.best_metric_mode is {mode}, and a {'higher' if known == 'max' else 'lower'} '{metric}' is better: the worst "
            "checkpoint would be kept; leave evaluate.best_metric_mode out, or name another evaluate.best_metric"
        )


def _refuse_idle_patience(config: Any) -> None:
    evaluated = config.evaluate
    if evaluated.early_stop_patience is not None and evaluated.every_steps is None:
        raise ConfigError(
            f"evaluate.early_stop_patience={evaluated.early_stop_patience} counts evaluations, and evaluate.every_steps is unset: there is "
            "one, at the end; set evaluate.every_steps, or leave early_stop_patience out"
        )
