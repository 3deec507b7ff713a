"""A sweep that W&B leads: the file is registered there, and W&B's agents start `tools/runner.sh` on this machine.

Not run against W&B's server here; what is sent and what the agent starts are held by tests.
"""

import shlex
from collections.abc import Sequence
from typing import Any

from deepcoro.config import ConfigError
from deepcoro.sweeping.space import Parameter
from deepcoro.sweeping.sweep_file import SweepFile
from deepcoro.sweeping.trials import Sweep
from deepcoro.sweeping.worker import Place
from deepcoro.tracking import wandb_mode

_OF_W_AND_B = ("method", "metric", "early_terminate", "run_cap", "name", "description")


def register(sweep: Sweep, project: str, entity: str | None, launch: str | None) -> str:
    """The sweep's full name at W&B. ConfigError where this machine is not logged in, or W&B does not answer or refuses."""
    if wandb_mode() != "online":
        raise ConfigError(
            "--wandb needs W&B: log in (wandb login) or leave --wandb out, which needs no network"
        )
    import wandb

    project, entity = sweep.file.project or project, sweep.file.entity or entity
    try:
        sweep_id = wandb.sweep(as_sent(sweep, launch), project=project, entity=entity)
    except wandb.errors.Error as error:  # after half a minute without a network
        raise ConfigError(
            f"nothing was registered, W&B says: {error}; leave --wandb out to run the sweep here, which needs no network"
        ) from error
    return "/".join(part for part in (entity, project, sweep_id) if part)


def as_sent(sweep: Sweep, launch: str | None) -> dict[str, Any]:
    """W&B's own form: nested parameters under dotted names, since its agent would pass a group as one dictionary."""
    plain = sweep.file.model_dump(mode="json", include=set(_OF_W_AND_B), exclude_none=True)
    if "early_terminate" in plain:
        plain["early_terminate"] = sweep.file.early_terminate.model_dump(exclude_unset=True)
    if sweep.count is not None:
        plain["run_cap"] = sweep.most_trials()
    parameters = {each.name: _parameter(each, sweep.file) for each in sweep.file.space()}
    return plain | {"parameters": parameters, "command": _command(sweep, launch)}


def _parameter(parameter: Parameter, file: SweepFile) -> dict[str, Any]:
    """What the file says of it, choices with the numbers that YAML took for words."""
    block = file.blocks()[parameter.name]
    given = block.model_dump(mode="json", include=block.model_fields_set)
    if "values" in given:
        given["values"] = list(parameter.choices)
    elif "value" in given:
        given["value"] = parameter.choices[0]
    return given


def _command(sweep: Sweep, launch: str | None) -> list[str]:
    """The run's folder is named by W&B's id, which the agent gives in the environment; GPUs are those of CUDA_VISIBLE_DEVICES."""
    words = ["tools/runner.sh", "--base_config", sweep.config, "--run_mode", "train", "--use_wandb", "true"]
    words += ["--launch", launch] if launch else []
    folder = shlex.quote(str(sweep.folder / "trials"))
    script = f'exec {shlex.join([*words, *sweep.overrides])} run_dir={folder}/"$WANDB_RUN_ID" "$@"'
    return ["/usr/bin/env", "bash", "-c", script, "trial", "${args_no_hyphens}"]


def agent_commands(name: str, places: Sequence[Place], count: int | None) -> list[str]:
    """A line for each group of GPUs, to be started side by side from the project's root."""
    number = "" if count is None else f" --count {count}"
    lines = []
    for place in places:
        gpus = f"CUDA_VISIBLE_DEVICES={','.join(map(str, place))} "
        lines.append(f"{gpus}wandb agent{number} {name}")
    return lines
