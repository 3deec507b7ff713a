"""The W&B sweep YAML as a typed tree: every key that W&B knows and this tool does not is refused by name, none is passed over.

Keys and their meaning: the "sweep configuration options" of W&B's guide. What only W&B's agent reads (`program`, `command`) is taken
and said to be unused, since files of the predecessor have it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pydantic

from deepcoro.config import Block, ConfigError, parse, read_tree, shipped_sweeps
from deepcoro.statistics.directions import known_direction
from deepcoro.sweeping.space import Parameter, parameter_of

OF_AGENTS = ("program", "command")
"""Keys of W&B's agent: here the tool itself starts the runs."""

Distribution = Literal[
    "constant",
    "categorical",
    "categorical_w_probabilities",
    "int_uniform",
    "uniform",
    "q_uniform",
    "log_uniform",
    "log_uniform_values",
    "q_log_uniform",
    "q_log_uniform_values",
    "normal",
    "q_normal",
    "log_normal",
    "q_log_normal",
]
Number = int | float


class ParameterBlock(Block):
    """One hyper-parameter, or a group of them below a common key."""

    distribution: Distribution | None = None
    """How values are drawn; unset: `value` is constant, `values` categorical, whole `min` and `max` int_uniform, others uniform."""
    value: Any = None
    """The only value."""
    values: list[Any] | None = None
    """Those to choose from."""
    probabilities: list[float] | None = None
    """Of each of `values`; they sum to one."""
    min: Number | None = None
    """Smallest value; of log_uniform and q_log_uniform its natural logarithm."""
    max: Number | None = None
    """Largest value; of log_uniform and q_log_uniform its natural logarithm."""
    mu: float = 0.0
    """Mean of normal; of log_normal that of the logarithm."""
    sigma: float = pydantic.Field(default=1.0, gt=0)
    """Standard deviation, as mu."""
    q: Number = pydantic.Field(default=1, gt=0)
    """Values of q_ distributions are multiples of it."""
    parameters: dict[str, "ParameterBlock"] | None = None
    """Parameters below this key: `optim: {parameters: {lr: ...}}` is `optim.lr`."""


class Metric(Block):
    """What is looked for."""

    name: str
    """Key of metrics.jsonl, of the val split: val/retrieval/text_to_video/R@5. The best of a run's evaluations counts."""
    goal: Literal["minimize", "maximize"] = "minimize"
    """Which way is better."""
    target: float | None = None
    """No further trial is begun once one is this good."""

    def cost(self, value: float) -> float:
        """The value, turned over where the largest is the best: less is better."""
        return value if self.goal == "minimize" else -value

    @pydantic.field_validator("name")
    @classmethod
    def _is_of_val(cls, value: str) -> str:
        if not value.startswith("val/"):
            raise ValueError("choose by the val split: a key of metrics.jsonl that begins with val/")
        return value

    @pydantic.model_validator(mode="after")
    def _looks_for_the_best(self) -> "Metric":
        """W&B's default is to minimize, which looks for the worst AUROC."""
        better = known_direction(self.name)
        if better is not None and not self.goal.startswith(better):
            raise ValueError(
                f"goal is {self.goal}, and of '{self.name}' that is the worst; set goal: {better}imize"
            )
        return self


class EarlyTerminate(Block):
    """Hyperband as W&B has it: at growing numbers of evaluations, trials outside of the best 1/eta end."""

    type: Literal["hyperband"]
    """The only one there is."""
    min_iter: int | None = pydantic.Field(default=None, ge=1)
    """Evaluations before the first look; then after min_iter * eta, min_iter * eta^2, ..."""
    max_iter: int | None = pydantic.Field(default=None, ge=1)
    """Evaluations of a whole run, in the place of min_iter: the first look is after max_iter / eta^s."""
    s: int | None = pydantic.Field(default=None, ge=1)
    """Number of looks that max_iter is divided into."""
    eta: int = pydantic.Field(default=3, ge=2)
    """The best 1/eta go on."""
    strict: Literal[False] = False
    """W&B's stricter form has no equivalent here."""

    @pydantic.model_validator(mode="after")
    def _has_a_first_look(self) -> "EarlyTerminate":
        if (self.min_iter is None) == (self.max_iter is None):
            raise ValueError("give min_iter, or max_iter and s")
        if self.max_iter is not None and self.s is None:
            raise ValueError("max_iter needs s, the number of looks")
        return self

    @property
    def first_look(self) -> int:
        """Evaluations before the first look."""
        if self.min_iter is not None:
            return self.min_iter
        return max(1, self.max_iter // self.eta**self.s)


class SweepFile(Block):
    """The whole file."""

    method: Literal["grid", "random", "bayes"]
    """grid: every combination in order; random: independent draws; bayes: TPE (Bergstra et al. 2011) learns from the trials before."""
    metric: Metric
    """What is looked for."""
    parameters: dict[str, ParameterBlock]
    """Keys of the config, dotted or nested."""
    early_terminate: EarlyTerminate | None = None
    """When trials that fall behind end."""
    run_cap: int | None = pydantic.Field(default=None, ge=1)
    """Most trials, where --count is not given or larger."""
    name: str | None = None
    """Title of the summary, and of the sweep at W&B."""
    description: str | None = None
    """Words under the title."""
    project: str | None = None
    """W&B project, for --wandb."""
    entity: str | None = None
    """W&B team or user, for --wandb."""
    program: str | None = None
    """Of W&B's agent; not read here."""
    command: list[str] | None = None
    """Of W&B's agent; not read here."""

    @pydantic.model_validator(mode="after")
    def _method_fits_the_parameters(self) -> "SweepFile":
        space = self.space()
        if self.method == "grid":
            for parameter in space:
                parameter.grid()
        return self

    def space(self) -> tuple[Parameter, ...]:
        """In the order of the file. ValueError for one that cannot be drawn."""
        blocks = self.blocks().items()
        return tuple(
            parameter_of(name, block.model_dump(include=block.model_fields_set)) for name, block in blocks
        )

    def blocks(self) -> dict[str, ParameterBlock]:
        """What the file says of each parameter, nested ones under their dotted names. ValueError where there is none."""
        found = dict(_flat(self.parameters, ""))
        if not found:
            raise ValueError("parameters is empty; name at least one")
        return found

    def unused(self) -> list[str]:
        """Keys that were given and that only W&B's agent reads."""
        return [key for key in OF_AGENTS if getattr(self, key) is not None]


def _flat(blocks: dict[str, ParameterBlock], prefix: str) -> Iterator[tuple[str, ParameterBlock]]:
    for key, block in blocks.items():
        name = f"{prefix}{key}"
        if block.parameters is None:
            yield name, block
        elif block.model_fields_set != {"parameters"}:
            others = sorted(block.model_fields_set - {"parameters"})
            raise ValueError(f"'{name}' has parameters below it and {others}; a key has one or the other")
        else:
            yield from _flat(block.parameters, f"{name}.")


def read_sweep(name: str) -> SweepFile:
    """A file, or the name of a shipped one. ConfigError names every key that is wrong."""
    shipped = shipped_sweeps()
    path = Path(name) if Path(name).is_file() else shipped.get(name)
    if path is None:
        raise ConfigError(f"sweep '{name}' is neither a file nor shipped; shipped: {sorted(shipped)}")
    return parse(SweepFile, read_tree(path), str(path))
