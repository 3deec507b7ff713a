"""Findings read off the video tower: any number of heads, each on a label column, on whole studies or clip by clip.

Labels may be missing (NaN): such a label is in no loss and in no count. A head's loss is the mean over its own labels of the whole
accumulation window on all ranks, and the objective's loss the sum of these times `head_weights`.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from deepcoro.assessed import LabelLoss
from deepcoro.config import Block, ConfigError, DataError, nearest
from deepcoro.evaluated import class_names
from deepcoro.features import Features, Surroundings
from deepcoro.fields.labels import with_words
from deepcoro.heads import LinearHead, OrdinalHead, Task
from deepcoro.judged import listed
from deepcoro.losses import HEAD_LOSSES, HeadLoss, bce, ordinal
from deepcoro.pretended import is_pretended

Level = Literal["clip", "study"]
AboveZero = Annotated[float, Field(gt=0)]

_LOSSES = {task: tuple(each for each in HEAD_LOSSES if task in each.tasks) for task in get_args(Task)}
"""What each task can be trained with; the first one is taken where none is named."""
_EARLIER_NAMES = {"bce_logit": "bce", "binary_focal": "focal", "multiclass_focal": "focal"}


@dataclass(frozen=True)
class Alike:
    """Heads that are computed together."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    level: Level
    task: Task
    loss: LabelLoss


class LinearProbing(nn.Module):
    """Owns the heads. `parts` names what `sum` and `count` hold, with its weight: one loss a head."""

    def __init__(self, config: "Config", beside: Surroundings) -> None:
        super().__init__()
        self.groups = config.alike()
        names = [name for group in self.groups for name in group.names]
        self.parts = {f"{name}_loss": config.head_weights.get(name, 1.0) for name in names}
        self._weights: Tensor | None = None
        self.reads = frozenset({"clip": "clips", "study": "study"}[group.level] for group in self.groups)
        dims = {"clip": beside.video_dim, "study": beside.study_dim}
        self.heads = nn.ModuleDict(
            {
                name: config.build_head(name, dims[group.level])
                for group in self.groups
                for name in group.names
            }
        )
        for name, head in self.heads.items():
            counts = beside.label_counts.get(config.column_of(name), {})
            weights = config.weights_of(name, counts)
            head.register_buffer("class_weights", None if weights is None else torch.tensor(weights))
            if counts:
                config.start(name, head, counts)

    def forward(self, features: Features, batch: Mapping[str, Any]) -> dict[str, Float[Tensor, "head"]]:
        """`sum`: this rank's share of each head's loss, times its weight."""
        with torch.autocast(batch["valid"].device.type, enabled=False):
            sums = torch.cat([self._sums(group, features, batch) for group in self.groups])
            return {"sum": sums * self._weights_like(sums)}

    def _weights_like(self, sums: Float[Tensor, "head"]) -> Float[Tensor, "head"]:
        """Copied to the device once, since it waits for a copy. No buffer: DeepSpeed would round it to bf16."""
        if is_pretended():
            return sums.new_tensor(list(self.parts.values()))
        if self._weights is None or (self._weights.device, self._weights.dtype) != (sums.device, sums.dtype):
            self._weights = sums.new_tensor(list(self.parts.values()))
        return self._weights

    def count(self, batch: Mapping[str, Any]) -> Int[Tensor, "head"]:
        """Labels of each head in this rank's valid rows, from the batch alone."""
        return torch.cat([(~_targets(group, batch).isnan()).sum(0) for group in self.groups])

    def evaluate(
        self, features: Features, batch: Mapping[str, Any]
    ) -> dict[str, Float[Tensor, "row output"]]:
        """`HEAD/prediction`: the probability of the finding, or of each class, or the number itself. Of a head at clip level the
        mean over the clips of the row. With a graph where gradients are on: a map asks what a prediction hangs on.
        """
        with torch.autocast(batch["valid"].device.type, enabled=False):
            predictions: dict[str, Tensor] = {}
            for group in self.groups:
                said = self._said(group, features).unbind(1)
                predictions |= {
                    f"{name}/prediction": each for name, each in zip(group.names, said, strict=True)
                }
            return predictions

    def _sums(self, group: Alike, features: Features, batch: Mapping[str, Any]) -> Float[Tensor, "head"]:
        target, weights = _targets(group, batch), self._class_weights(group)
        if group.level == "study":
            return group.loss(self._outputs(group, features), target, weights).sum(0)
        mask = features.clips.clip_mask
        cells = torch.where(mask[..., None], target[:, None], torch.nan)
        of_clips = group.loss(
            rearrange(self._outputs(group, features), "row clip head output -> (row clip) head output"),
            rearrange(cells, "row clip head -> (row clip) head"),
            weights,
        )
        of_clips = rearrange(of_clips, "(row clip) head -> row clip head", clip=mask.shape[1])
        return (of_clips.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)).sum(0)

    def _said(self, group: Alike, features: Features) -> Float[Tensor, "row head output"]:
        said = _probabilities(group.task, self._outputs(group, features))
        if group.level == "study":
            return said
        weight = repeat(features.clips.clip_mask, "row clip -> row clip 1 1").to(said.dtype)
        return (said * weight).sum(1) / weight.sum(1).clamp(min=1)

    def _outputs(self, group: Alike, features: Features) -> Float[Tensor, "row *clip head output"]:
        vectors = features.study if group.level == "study" else features.clips.per_video()
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        return torch.stack([self.heads[name](vectors) for name in group.names], dim=-2)

    def _class_weights(self, group: Alike) -> Float[Tensor, "head class"] | None:
        weights = [self.heads[name].class_weights for name in group.names]
        return None if weights[0] is None else torch.stack(weights)


def _targets(group: Alike, batch: Mapping[str, Any]) -> Float[Tensor, "row head"]:
    """NaN where not assessed, and for rows that could not be read or have no clip."""
    labels = torch.stack([batch["labels"][column] for column in group.columns], dim=1)
    is_seen = batch["valid"] & batch["clip_mask"].any(dim=1)
    return torch.where(is_seen[:, None], labels, torch.nan)


def _probabilities(task: Task, outputs: Float[Tensor, "*row output"]) -> Float[Tensor, "*row class"]:
    if task == "binary_classification":
        return outputs.sigmoid()
    if task == "multiclass_classification":
        return outputs.softmax(dim=-1)
    if task == "ordinal_classification":
        return ordinal.log_class_probabilities(outputs).exp()
    return outputs


class Config(Block):
    """Heads on label columns: a linear probe where the tower is frozen (`towers.video.video_freeze_ratio: 1.0`), fine-tuning where it is
    not. Every other dictionary is keyed by head, or by a pattern of heads such as `*_cto`."""

    type: Literal["linear_probing"] = "linear_probing"
    """Which objective this is."""
    head_structure: dict[str, int] = Field(min_length=1)
    """Head -> what it says: 1 for a binary finding or a number, else how many classes. A head reads the label column of its name."""
    head_task: dict[str, Task] = {}
    """Head -> task. Unset = what its loss is for."""
    loss_structure: dict[str, HeadLoss] = {}
    """Head -> loss, a name (`huber`) or a block (`{type: huber, delta: 5}`): bce or focal for binary heads, ce or focal for several
    classes, ordinal for ordered ones, huber, mse or mae for numbers. Unset = the first of these for the head's task."""
    head_weights: dict[str, AboveZero] = {}
    """Head -> weight of its loss in the sum; unset = 1. Losses of numbers are in the label's unit (mse: its square): of percent they
    outweigh the others unless they are weighed down."""
    head_lr: dict[str, AboveZero] = {}
    """Head -> peak learning rate; unset = optim.lr."""
    head_weight_decay: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Head -> weight decay of its matrix; unset = optim.weight_decay."""
    head_dropout: dict[str, Annotated[float, Field(ge=0, lt=1)]] = {}
    """Head -> dropout of the vector that it reads; unset = 0."""
    head_column: dict[str, str] = {}
    """Head -> label column it reads; unset = the one of its name."""
    labels_map: dict[str, dict[str, int]] = {}
    """Head -> word of its column -> class, from 0; unset = the column holds numbers."""
    level: dict[str, Level] = {}
    """Head -> `study`: reads the pooled clips of the row; `clip`: judges every clip by itself, each has the row's label, and the row's
    prediction is the mean of its clips'. Unset = study. The same where a row is one film."""
    class_weights: dict[str, list[AboveZero] | Literal["balanced"]] = {}
    """Head -> weight of each class in the loss, `[no, yes]` for a binary head, or `balanced`: labels of the train split / (classes *
    labels of the class), so that all classes weigh the same together. Unset = 1 each."""

    @model_validator(mode="before")
    @classmethod
    def _patterns_are_heads(cls, value: Any) -> Any:
        heads = value.get("head_structure") if isinstance(value, dict) else None
        if not isinstance(heads, dict):
            return value
        return value | {
            key: _by_head(key, value[key], list(heads))
            for key in _BY_HEAD
            if isinstance(value.get(key), dict)
        }

    @field_validator("loss_structure", mode="before")
    @classmethod
    def _names_are_blocks(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {head: _as_block(loss) for head, loss in value.items()}

    @field_validator("labels_map", mode="before")
    @classmethod
    def _words_of_yaml(cls, value: Any) -> Any:
        """YAML reads the words `no`, `2` or `0.5` as other things than words."""
        return with_words(value)

    @model_validator(mode="after")
    def _heads_make_sense(self) -> "Config":
        for head in self.head_structure:
            if not head.replace("-", "_").isidentifier() or hasattr(nn.ModuleDict, head):
                raise ValueError(
                    f"head_structure: '{head}' cannot name a head (letters, digits, _ and -, no word of torch such as 'type'); "
                    "take another name and give the column in head_column"
                )
            self._check_head(head)
        return self

    def _check_head(self, head: str) -> None:
        task, loss, size = self.task_of(head), self.loss_of(head), self.head_structure[head]
        if not isinstance(loss, _LOSSES[task]):
            allowed = [each.model_fields["type"].default for each in _LOSSES[task]]
            raise ValueError(f"loss_structure.{head} is '{loss.type}', and {task} takes one of {allowed}")
        least, most = _SIZES[task]
        if not _fits(task, size):
            raise ValueError(
                f"head_structure.{head} is {size}, and {task} has "
                + ("1 output" if most == 1 else f"{least} classes or more")
            )
        num_classes = self.num_classes(head)
        weights = self.class_weights.get(head)
        if weights is not None and (not num_classes or weights != "balanced" and len(weights) != num_classes):
            raise ValueError(f"class_weights.{head} is {weights}; the head has {num_classes} classes")
        numbers = set(self.labels_map.get(head, {}).values())
        if num_classes and not numbers <= set(range(num_classes)):
            raise ValueError(f"labels_map.{head} gives {sorted(numbers)}; classes are 0 to {num_classes - 1}")

    def task_of(self, head: str) -> Task:
        """ValueError where neither task nor loss says it."""
        if head in self.head_task:
            return self.head_task[head]
        loss = self.loss_structure.get(head)
        if loss is None:
            raise ValueError(
                f"head '{head}' has neither a task nor a loss; name one in head_task or loss_structure"
            )
        fitting = [task for task in loss.tasks if _fits(task, self.head_structure[head])]
        return (*fitting, *loss.tasks)[0]

    def loss_of(self, head: str) -> HeadLoss:
        """The loss of a head, named or not."""
        return self.loss_structure.get(head) or _LOSSES[self.task_of(head)][0]()

    def num_classes(self, head: str) -> int:
        """0 for a number."""
        return {"binary_classification": 2, "regression": 0}.get(
            self.task_of(head), self.head_structure[head]
        )

    def column_of(self, head: str) -> str:
        """The label column that a head reads."""
        return self.head_column.get(head, head)

    def class_words(self, head: str) -> list[str]:
        """Of each class of a head of several the word of `labels_map`, the first of those that mean it; its number where there is none."""
        return class_names(self.labels_map.get(head, {}), self.num_classes(head))

    def alike(self) -> list[Alike]:
        """Heads by what is computed together, in the order in which the first of each group is named."""
        groups: dict[tuple, list[str]] = {}
        for head, size in self.head_structure.items():
            key = (self.level.get(head, "study"), self.task_of(head), self.loss_of(head), size)
            groups.setdefault((*key, head in self.class_weights), []).append(head)
        return [
            Alike(tuple(names), tuple(map(self.column_of, names)), level, task, loss.build())
            for (level, task, loss, _, _), names in groups.items()
        ]

    def build_head(self, head: str, dim: int) -> nn.Module:
        """A head that reads vectors of `dim` numbers."""
        kind = OrdinalHead if self.task_of(head) == "ordinal_classification" else LinearHead
        return kind(dim, self.head_structure[head], self.head_dropout.get(head, 0.0))

    def weights_of(self, head: str, counts: Mapping[float, int]) -> list[float] | None:
        """Weight of each class. `counts`: value -> labels of the train split; without them those of the checkpoint will be read."""
        weights, num_classes = self.class_weights.get(head), self.num_classes(head)
        if weights != "balanced" or not counts:
            return [1.0] * num_classes if weights == "balanced" else weights
        of_class = [counts.get(float(number), 0) for number in range(num_classes)]
        if not all(of_class):
            raise ConfigError(
                f"class_weights.{head} is balanced, and the train split has {of_class} labels of the classes; give the weights, or "
                "fewer classes"
            )
        return [sum(of_class) / (num_classes * number) for number in of_class]

    def refuse_labels(self, split: str, values: Mapping[str, Sequence[float]]) -> None:
        """DataError for a label of a split that is no class of its head. `values`: column -> those of the split. A reader's doubt about
        a finding is no class, but bce learns from it and an evaluation settles it.
        """
        for head in self.head_structure:
            column, classes = self.column_of(head), range(self.num_classes(head))
            doubt = self.task_of(head) == "binary_classification"
            doubt = doubt and (split != "train" or isinstance(self.loss_of(head), bce.Config))
            strange = [v for v in values.get(column, ()) if v not in classes and not (doubt and 0 <= v <= 1)]
            if classes and strange:
                raise DataError(
                    f"head '{head}' reads the column '{column}', whose labels of split {split} hold {strange[:5]}; its classes are "
                    f"{list(classes)}: give every value its class in labels_map.{head} (null in data.fields.labels.values.{column} for "
                    "one that is to be not assessed), or another head_structure",
                    topic="labels",
                )

    def start(self, head: str, module: nn.Module, counts: Mapping[float, int]) -> None:
        """A head knows at first how frequent each class is, or the mean."""
        values, times = (
            torch.tensor(each, dtype=torch.float64) for each in zip(*counts.items(), strict=True)
        )
        num_classes = self.num_classes(head)
        if not num_classes:
            mean = (values * times).sum() / times.sum()
            deviation = ((values - mean).square() * times).sum().div(times.sum()).sqrt()
            module.start_with_numbers(mean.item(), max(deviation.item(), 1e-6))
            return
        # one more of each, so that a class that was never seen is not impossible
        of_class = [1 + sum(times[(values.round() == number)].tolist()) for number in range(num_classes)]
        module.start_with_shares([number / sum(of_class) for number in of_class])

    def own_groups(self) -> dict[str, dict[str, float]]:
        """`heads.HEAD` -> `lr` and `weight_decay` of the parameters below it, where they are not the run's."""
        own: dict[str, dict[str, float]] = {}
        for key, given in (("lr", self.head_lr), ("weight_decay", self.head_weight_decay)):
            for head, number in given.items():
                own.setdefault(f"heads.{head}", {})[key] = number
        return own

    def needed_fields(self) -> dict[str, dict[str, Any]]:
        """The label columns of all heads, with the numbers of their words."""
        values: dict[str, dict[str, int]] = {}
        for head, words in self.labels_map.items():
            column = self.column_of(head)
            if values.setdefault(column, words) != words:
                raise ValueError(
                    f"labels_map.{head} maps the column '{column}' otherwise than another head does; give a copy of the column "
                    "another name in a table of data.tables"
                )
        return {
            "labels": {"columns": sorted(set(map(self.column_of, self.head_structure))), "values": values}
        }

    def best_metric(self, name: str) -> tuple[str, str]:
        """What chooses the checkpoint where nothing is said: findings before classes before numbers. `name`: of the objective."""
        tasks = {head: self.task_of(head) for head in self.head_structure}
        findings = [head for head, task in tasks.items() if task == "binary_classification"]
        if findings:
            return f"{name}/{_mean_of(findings)}/auroc", "max"
        classes = [head for head, task in tasks.items() if task != "regression"]
        metric = f"{classes[0]}/macro_auroc" if classes else f"{_mean_of(list(tasks))}/pearson_r"
        return f"{name}/{metric}", "max"

    def build(self, beside: Surroundings) -> LinearProbing:
        return LinearProbing(self, beside)


_BY_HEAD = [name for name in Config.model_fields if name not in ("type", "head_structure")]
_SIZES = {
    "binary_classification": (1, 1),
    "multiclass_classification": (2, 10**6),
    "ordinal_classification": (3, 10**6),
    "regression": (1, 1),
}
"""Least and most that a head of a task says."""


def _fits(task: Task, size: int) -> bool:
    return _SIZES[task][0] <= size <= _SIZES[task][1]


def _mean_of(heads: list[str]) -> str:
    """Where the results hold the mean of these heads; of one head alone they hold no mean, only its own number."""
    return "macro" if len(heads) > 1 else heads[0]


def _by_head(key: str, given: dict[str, Any], heads: list[str]) -> dict[str, Any]:
    """A pattern stands for the heads that it matches; a later one goes before an earlier one, and a name before patterns."""
    found: dict[str, Any] = {}
    for name in sorted(given, key=lambda name: name in heads):
        matched = [head for head in heads if fnmatch.fnmatchcase(head, str(name))]
        if not matched:
            raise ValueError(f"{key} names '{name}'{nearest(str(name), heads)}; heads: {listed(heads)}")
        found |= dict.fromkeys(matched, given[name])
    return {head: found[head] for head in heads if head in found}


def _as_block(loss: Any) -> Any:
    return {"type": _EARLIER_NAMES.get(loss, loss)} if isinstance(loss, str) else loss
