"""A config of DeepCORO_CLIP read key by key: the YAML that says the same here, and what became of every key."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import yaml

from deepcoro.config import ConfigError, nearest, parse, read_tree
from deepcoro.migration.conversions import KINDS, New, constants, kind_of
from deepcoro.migration.keys import STRAY_KEYS, TABLES, Fate, Key, key_of
from deepcoro.run_config import RunConfig

_HEADINGS: dict[Fate, str] = {
    "mapped": "mapped",
    "changed": "changed on purpose",
    "dropped": "dropped, with why",
}
_ABSENT = object()


@dataclass(frozen=True)
class Line:
    """What became of one key of the old config."""

    key: str
    value: Any
    fate: Fate
    why: str
    new: New
    """Our dotted keys."""


@dataclass(frozen=True)
class Imported:
    """An old config as one of ours."""

    source: str
    lines: list[Line]
    tree: dict
    """Only what differs from our defaults."""
    config: RunConfig
    steps: list[str]
    """Commands that make what the config names."""

    def yaml(self, path: Path) -> str:
        """The file as it is written to `path`; line 1 is the exact command."""
        launch = "accelerate launch --config_file accelerate_configs/multi_gpu_ddp.yaml"
        head = f"# {launch} train.py {shlex.quote(str(path))}\n#\n# Imported from {self.source} by tools/import_config.py.\n"
        steps = "".join(f"# Before: {step}\n" for step in self.steps)
        return head + steps + yaml.safe_dump(self.tree, sort_keys=False, allow_unicode=True, width=120)

    def report(self) -> str:
        """Each key of the old config once, by what became of it."""
        parts = []
        for fate, heading in _HEADINGS.items():
            found = [line for line in self.lines if line.fate == fate]
            parts += [f"{heading} ({len(found)}):", *map(_told, found), ""]
        if self.steps:
            parts += ["to do before the run:", *(f"  {step}" for step in self.steps), ""]
        return "\n".join(parts)


def read_old(path: Path) -> dict[str, Any]:
    """The mapping of an old YAML file. ConfigError where it is none of the predecessor's configs."""
    old = read_tree(path)
    project = old.get("pipeline_project")
    if "parameters" in old and project is None:
        raise ConfigError(
            f"{path} is a sweep, which tools/import_config.py does not read; give its base config"
        )
    if project not in KINDS:
        known = f"{nearest(str(project), list(KINDS))}; known: {', '.join(KINDS)}"
        raise ConfigError(f"{path}: pipeline_project is '{project}'{known}", topic="predecessor-config")
    return old


def import_config(path: Path) -> Imported:
    """Raises ConfigError for a file that is no config of the predecessor, or whose values cannot be ours."""
    old = read_old(path)
    lines = list(_lines(old))
    tree = _tree(lines)
    config = parse(RunConfig, tree, f"{path} as a config of deepcoro")
    return Imported(path.name, lines, _pruned(tree, config), config, list(_steps(old, config, path)))


def pixel_constants_of(path: Path) -> tuple[float, float] | None:
    """Mean and deviation of the grey levels that an old config names. ConfigError where its encoder was not MViT as here.

    With `use_rope` the predecessor's patch of attention left out residual pooling (W19): the same weights, another function.
    """
    old = read_old(path)
    if old.get("use_rope") or str(old.get("model_name", "mvit")) != "mvit":
        raise ConfigError(
            f"{path}: model_name '{old.get('model_name')}' with use_rope {bool(old.get('use_rope'))} is another function than mvit (W19), "
            "which its weights do not give here; only model_name mvit without use_rope is imported"
        )
    found = constants(old)
    return (found["normalisation.pixel_mean"], found["normalisation.pixel_std"]) if found else None


def _lines(old: Mapping[str, Any]) -> Iterator[Line]:
    kind = kind_of(old)
    # the project first: later keys fill in the objectives that it names
    for name in sorted(old, key=lambda name: name != "pipeline_project"):
        found = key_of(kind, name) or _unknown(kind, name)
        yield Line(name, old[name], found.fate, found.why, _converted(name, found, old))


def _converted(name: str, key: Key, old: Mapping[str, Any]) -> New:
    if key.convert is None or old[name] is None:
        return {}
    try:
        return key.convert(old)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(
            f"'{name}' is {old[name]!r}, which the predecessor could not read either: {error}"
        ) from error


def _unknown(kind: str, name: str) -> Key:
    close = nearest(name, [*TABLES[kind], *STRAY_KEYS])
    return Key("dropped", f"no key of the predecessor, which dropped such in silence{close}")


def _tree(lines: list[Line]) -> dict:
    tree: dict = {}
    left_out = []
    for line in lines:
        for key, value in line.new.items():
            if value is None:
                left_out.append(key)
            else:
                _set(tree, key.split("."), value)
    for key in left_out:
        *parents, last = key.split(".")
        _get(tree, parents).pop(last, None)
    return tree


def _set(tree: dict, keys: list[str], value: Any) -> None:
    *parents, last = keys
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _get(tree: dict, keys: list[str]) -> Any:
    for key in keys:
        tree = tree.get(key, {})
    return tree


def _pruned(tree: dict, config: RunConfig) -> dict:
    """Without the keys that say what is so anyway."""
    for keys in [*_leaves(tree), *_branches(tree)]:
        *parents, last = keys
        block = _get(tree, parents)
        value = block.get(last, _ABSENT)
        is_tried = last == "type" or value == {}
        if value is not _ABSENT and not is_tried and _is_default(config, keys):
            del block[last]
        elif is_tried:
            del block[last]
            if not _is(tree, config):
                block[last] = value
    return tree


def _is_default(config: RunConfig, keys: Sequence[str]) -> bool:
    """Whether a key has its block's default. Parsing the tree without it would tell too, and takes seconds with 90 heads."""
    *parents, last = keys
    block: Any = config
    for key in parents:
        block = block[key] if isinstance(block, Mapping) else getattr(block, key)
    field = None if isinstance(block, Mapping) else type(block).model_fields[last]
    return (
        field is not None
        and not field.is_required()
        and getattr(block, last) == field.get_default(call_default_factory=True)
    )


def _is(tree: dict, config: RunConfig) -> bool:
    try:
        return RunConfig.model_validate(tree) == config
    except pydantic.ValidationError:
        return False


def _leaves(tree: dict, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of values; a dictionary by head is one value."""
    for key, value in tree.items():
        is_block = isinstance(value, dict) and value and above[1:] != ("linear_probing",)
        if is_block:
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)


def _branches(tree: dict, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Mappings, the deepest first: what their leaves left empty may go."""
    found = [
        branch
        for key, value in tree.items()
        if isinstance(value, dict)
        for branch in (*_branches(value, (*above, key)), (*above, key))
    ]
    return sorted(found, key=len, reverse=True)


def _steps(old: Mapping[str, Any], config: RunConfig, path: Path) -> Iterator[str]:
    """Commands that make the shards and the weights."""
    if old.get("data_filename"):
        table = shlex.quote(str(Path(str(old.get("root") or ".")) / str(old["data_filename"])))
        columns = "".join(
            f" --{role}_column {shlex.quote(str(name))}" for role, name in _columns(old).items() if name
        )
        yield f"python tools/shard_dataset.py --csv {table} --output {config.data.shards}{columns}"
    for key in ("encoder_path", "video_encoder_checkpoint_path", "inference_model_path"):
        if config.towers.video.weights == f"imported/{key}":
            file, folder = Path(str(old[key])), f"imported/{key}"
            yield f"python tools/import_checkpoint.py {shlex.quote(str(file))} --config {shlex.quote(str(path))} --output {folder}"


def _columns(old: Mapping[str, Any]) -> dict[str, str | None]:
    """Names that `tools/shard_dataset.py` does not look for by itself."""
    report = old.get("target_label") if kind_of(old) != "linear_probing" else None
    report = report[0] if isinstance(report, list) and report else report
    given = {"path": old.get("datapoint_loc_label"), "study": old.get("groupby_column"), "report": report}
    usual = {"path": "FileName", "study": "StudyInstanceUID", "report": "Report"}
    return {role: name for role, name in given.items() if name != usual[role]}


def _told(line: Line) -> str:
    value = _short(line.value)
    became = "; ".join(f"{key}: {_short(new)}" for key, new in line.new.items() if new is not None)
    return (
        f"  {line.key}: {value}"
        + (f" -> {became}" if became else "")
        + (f"  ({line.why})" if line.why else "")
    )


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
