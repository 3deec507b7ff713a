"""What a folder was begun with (sweep.json): the same sweep goes on there, also after an upgrade of this program, and another one is refused.

Kept is the whole config with the defaults of its day, so that a default which changes between two starts is seen and does not make two
kinds of trials.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepcoro import atomic
from deepcoro.config import Block, ConfigError, dump, parse
from deepcoro.run_config import RunConfig
from deepcoro.sweeping.sweep_file import EarlyTerminate, Metric, ParameterBlock, SweepFile

logger = logging.getLogger(__name__)

FILE = "sweep.json"
_FREE_OF_CONFIG = ("run_dir", "resume")
_FREE_OF_FILE = ("run_cap", "name", "description", "project", "entity", "program", "command")
"""May change between two starts: they do not decide about the trials."""
_MOST_NAMED = 4


def keep_to_record(folder: Path, config: RunConfig, file: SweepFile, seed: int) -> None:
    """Begins the record or holds this sweep against it. ConfigError names what differs.

    A key younger than the record counts as set to today's default, which is said and kept from then on.
    """
    here = {
        "config": _without(dump(config), _FREE_OF_CONFIG),
        "sweep": _without(dump(file), _FREE_OF_FILE),
        "seed": seed,
    }
    path = folder / FILE
    if not path.is_file():
        _write(path, here)
        return
    there = json.loads(path.read_text())
    filled = {
        "config": _filled_config(there["config"], folder),
        "sweep": _without(_filled_file(there["sweep"]), _FREE_OF_FILE),
        "seed": there["seed"],
    }
    _refuse_differences(folder, filled, json.loads(json.dumps(here)))
    younger = [name for part in ("config", "sweep") for name in _missing(there[part], filled[part])]
    if younger:
        logger.info("begun before there was %s; their defaults hold here too", ", ".join(younger))
        _write(path, here)


def _without(tree: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in keys}


def _write(path: Path, record: dict[str, Any]) -> None:
    atomic.write_text(path, json.dumps(record, indent=1) + "\n")


def _filled_config(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The recorded tree with today's defaults where it lacks keys."""
    try:
        whole = dump(parse(RunConfig, tree, str(folder / FILE)))
    except ConfigError as error:
        raise ConfigError(
            f"this version cannot go on with {folder}: {error}; choose another --output or the version it was begun with"
        ) from error
    return json.loads(json.dumps(_without(whole, _FREE_OF_CONFIG)))


def _filled_file(tree: dict[str, Any]) -> dict[str, Any]:
    """The same, not parsed again: a parameter refuses keys that are spelled out and not of its distribution."""
    stopping = tree.get("early_terminate")
    return {
        **_defaults(SweepFile),
        **tree,
        "metric": _defaults(Metric) | tree["metric"],
        "early_terminate": stopping and _defaults(EarlyTerminate) | stopping,
        "parameters": _filled_parameters(tree["parameters"]),
    }


def _filled_parameters(trees: dict[str, Any]) -> dict[str, Any]:
    whole = {name: _defaults(ParameterBlock) | tree for name, tree in trees.items()}
    return {
        name: tree | {"parameters": tree["parameters"] and _filled_parameters(tree["parameters"])}
        for name, tree in whole.items()
    }


def _defaults(block: type[Block]) -> dict[str, Any]:
    return {name: field.default for name, field in block.model_fields.items() if not field.is_required()}


def _missing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted keys that `old` lacks."""
    for key, value in new.items():
        if key not in old:
            yield f"{prefix}{key}"
        elif isinstance(value, dict) and isinstance(old[key], dict):
            yield from _missing(old[key], value, f"{prefix}{key}.")


def _differing(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Dotted keys whose values are not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differing(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield f"{name} was {old!r} and is {new!r}" if name else f"was {old!r} and is {new!r}"


def _refuse_differences(folder: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    changed = [part for part in here if there[part] != here[part]]
    if not changed:
        return
    told = [each for part in changed for each in _differing(there[part], here[part])]
    more = f"; and {len(told) - _MOST_NAMED} more" if len(told) > _MOST_NAMED else ""
    raise ConfigError(
        f"{folder} holds a sweep with another {' and another '.join(changed)}; choose another --output or give it back: "
        f"{'; '.join(told[:_MOST_NAMED])}{more}"
    )
