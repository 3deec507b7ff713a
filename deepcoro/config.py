"""The ground of every configuration block: YAML and overrides in, one frozen typed tree out, errors that name the key."""

import difflib
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union

import pydantic
import yaml

SHIPPED = Path(__file__).parent / "configs"


ERRORS_PAGE = "docs/errors.md"
_MOST_SHOWN = 200
"""Characters of a value in an error."""


def pointer(topic: str) -> str:
    """Where a message is explained, as it is printed behind it: `topic` is a heading of the page."""
    return f"[{ERRORS_PAGE}#{topic}]"


class _Explained(Exception):
    """What the user can put right. `topic`: the heading of docs/errors.md that says more; unset, that of the class."""

    topic: str

    def __init__(self, message: str, topic: str | None = None) -> None:
        super().__init__(message)
        if topic is not None:
            self.topic = topic

    @property
    def told(self) -> str:
        """The message with its pointer: what a command prints, on one line."""
        return f"{self} {pointer(self.topic)}"


class ConfigError(_Explained):
    """The configuration is at fault: one line that names key, value, what is allowed and the remedy. Exit code 2."""

    topic = "commands-and-configs"


class DataError(_Explained):
    """The data are at fault: one line that names sample or file (by keyed id), what was found and the remedy. Exit code 2."""

    topic = "data"


class Block(pydantic.BaseModel):
    """One block of the tree. The string under a field is that key's only documentation."""

    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )
    defaults_stay: ClassVar[tuple[str, ...]] = ()
    """Names of mappings whose default entries stay beside those given; `false` takes one out."""

    def held(self, name: str) -> Any:
        """The value of a field as it is written down: with `false` for each default entry that was taken out of it."""
        value = getattr(self, name)
        if name not in self.defaults_stay:
            return value
        return dict.fromkeys(type(self).model_fields[name].default, False) | value

    @pydantic.model_serializer(mode="wrap")
    def _written(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        plain = handler(self)
        taken_out = {name: dict.fromkeys(self.held(name), False) for name in self.defaults_stay}
        return plain | {name: places | plain[name] for name, places in taken_out.items()}


BlockType = TypeVar("BlockType", bound=Block)


def choice(*configs: type[Block]) -> Any:
    """The blocks of a choice folder as one type, told apart by their key `type`."""
    if len(configs) == 1:
        return configs[0]
    return Annotated[Union[configs], pydantic.Field(discriminator="type")]  # noqa: UP007 - built from a tuple


def typed_by_key(value: Any) -> Any:
    """`{contrastive: {loss: ...}}` means `{contrastive: {type: contrastive, loss: ...}}`: the key is the default type."""
    if not isinstance(value, dict):
        return value
    given = {key: {} if block is None else block for key, block in value.items() if block is not False}
    return {key: {"type": key} | block if isinstance(block, dict) else block for key, block in given.items()}


def find_config(name: str) -> Path:
    """A path as given, or the shipped file of that name (`clip/base_config`)."""
    shipped = SHIPPED / f"{name}.yaml"
    for candidate in (Path(name), shipped):
        if candidate.is_file():
            return candidate
    known = shipped_names()
    raise ConfigError(
        f"config '{name}' is neither a file nor shipped{nearest(name, known)}; shipped: {known}",
        topic="unknown-keys",
    )


def shipped_names() -> list[str]:
    return sorted(name for name in _shipped() if not _is_sweep(name))


def shipped_sweeps() -> dict[str, Path]:
    """Files that say what a sweep varies (`tools/sweep.py`), by name. They are no configs."""
    return {name: path for name, path in _shipped().items() if _is_sweep(name)}


def _shipped() -> dict[str, Path]:
    return {str(path.relative_to(SHIPPED).with_suffix("")): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def _is_sweep(name: str) -> bool:
    return name.rpartition("/")[2].startswith("sweep_config")


def read_tree(path: Path, overrides: Sequence[str] = (), shorthands: dict[str, str] | None = None) -> dict:
    """The YAML at `path` with `a.b=value` overrides laid over it; values are read as YAML.

    `shorthands` maps a key that people write alone to the one it stands for (`checkpoint` -> `checkpoint.load`).
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}); save it again as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; a mapping of keys is expected")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(
                f"override '{override}' has no '='; write key.subkey=value", topic="unknown-keys"
            )
        key = (shorthands or {}).get(key, key)
        _set(tree, key.split("."), yaml.safe_load(value), override)
    return tree


def _set(tree: dict, keys: list[str], value: Any, override: str) -> None:
    *parents, last = keys
    for key in parents:
        child = tree.get(key)
        if child is None:
            child = tree[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"override '{override}': '{key}' holds {child!r}, which has no keys below it",
                topic="unknown-keys",
            )
        tree = child
    tree[last] = value


def parse(block: type[BlockType], tree: dict, source: str) -> BlockType:
    """The frozen, typed tree; a ConfigError lists every key that is wrong."""
    try:
        return block.model_validate(tree)
    except pydantic.ValidationError as error:
        lines = [_explain(block, tree, item) for item in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(dict.fromkeys(lines)), topic="unknown-keys") from error


def _explain(block: type[Block], tree: dict, error: dict) -> str:
    keys, blocks = _walk(block, tree, error["loc"])
    key = ".".join(keys)
    if error["type"] == "extra_forbidden":
        allowed = sorted(name for each in blocks for name in each.model_fields)
        return f"unknown key '{key}'{nearest(keys[-1], allowed)}; allowed here: {allowed}"
    if error["type"] == "missing":
        return f"key '{key}' is required and missing"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        allowed = [tag.strip(" '") for tag in error["ctx"].get("expected_tags", "").split(",") if tag.strip()]
        got = error["ctx"].get("tag", "nothing")
        return f"'{key}.type' is '{got}'{nearest(str(got), allowed)}; allowed: {allowed or 'see --list'}"
    message = error["msg"].removeprefix("Value error, ")
    return f"'{key}' = {_shortened(error['input'])}: {message}" if key else message


def _shortened(value: Any) -> str:
    """A value as it is printed in an error: a block of ninety heads would hide what is said of it."""
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _walk(block: Any, tree: Any, location: tuple) -> tuple[list[str], list[type[Block]]]:
    """Key path of an error without pydantic's union tags, and the blocks whose keys were allowed there."""
    keys, allowed = [], [block]
    for step in location:
        blocks = _blocks_of(block)
        if isinstance(tree, dict) and tree.get("type") == step and step not in tree:
            block = next((each for each in blocks if _tag(each) == step), block)
            continue
        is_tag = any(_tag(each) == step for each in blocks) and not (isinstance(tree, dict) and step in tree)
        if is_tag and len(blocks) > 1:
            block = next(each for each in blocks if _tag(each) == step)
            continue
        keys.append(str(step))
        allowed = blocks
        field = next((each.model_fields[step] for each in blocks if step in each.model_fields), None)
        block = field.annotation if field else block
        tree = tree.get(step) if isinstance(tree, dict) else None
    return keys, allowed


def _tag(block: type[Block]) -> str | None:
    field = block.model_fields.get("type")
    # a `type` that has to be given has no default, and tells no choices apart
    return field.default if field and not field.is_required() else None


def _blocks_of(annotation: Any) -> list[type[Block]]:
    """Every Block named in an annotation: unions, optionals, lists and mapping values are looked into."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(annotation):
        return [found for inner in typing.get_args(annotation) for found in _blocks_of(inner)]
    return []


def nearest(name: str, allowed: Sequence[str]) -> str:
    """ "; did you mean ...?" behind a name that is not allowed, where one of those that are is like it."""
    match = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean '{match[0]}'?" if match else ""


def show(block: Block, indent: int = 0) -> str:
    """The resolved tree as YAML, each key under its sentence. Reading it back gives the same tree."""
    lines = []
    for name, field in type(block).model_fields.items():
        pad = "  " * indent
        if field.description:
            lines.append(f"{pad}# {' '.join(field.description.split())}")
        lines.append(_show_value(name, block.held(name), indent))
    return "\n".join(lines)


def _show_value(name: str, value: Any, indent: int) -> str:
    pad = "  " * indent
    if isinstance(value, Block):
        return (
            f"{pad}{name}:\n{show(value, indent + 1)}" if type(value).model_fields else f"{pad}{name}: {{}}"
        )
    if isinstance(value, dict) and value:
        inner = [_show_value(str(key), item, indent + 1) for key, item in value.items()]
        return f"{pad}{name}:\n" + "\n".join(inner)
    plain = pydantic.TypeAdapter(Any).dump_python(value, mode="json")
    return f"{pad}{name}: {yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix('...' + chr(10)).strip()}"


def dump(block: Block) -> dict:
    """Plain mapping for YAML, JSON and checkpoints."""
    return block.model_dump(mode="json")
