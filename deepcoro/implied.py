"""What a run's tree leaves unsaid because its objectives and its pooler say it: the fields they read, what chooses the best
checkpoint, and whether texts are read at all.

A Config of an objective or a pooler may have `needed_fields()` -> {field: block}, laid under what `data.fields` says, and
`reads_text` (false unless it says otherwise): without an objective that reads texts a run has no text tower, no tokenizer and no
field of texts. `best_metric(name)` -> (key of results.json, max or min) is taken where `evaluate.best_metric` is unset and every objective has one:
contrastive has none, the default there is its own. That of the first objective counts, of one with `is_pretext` only where all are such.
Where a best metric is named without its mode, its name says which way is better (`deepcoro/statistics/directions.py`).
"""

from typing import Any

import pydantic

from deepcoro.config import Block, dump, typed_by_key
from deepcoro.fields.labels import word_of
from deepcoro.statistics.directions import direction

TEXT_FIELDS = ("report", "texts", "caption")


def with_needs(tree: dict, objectives: Any, pooler: Any) -> dict:
    """The tree of a run, completed. `objectives` and `pooler`: (annotation, default) of these keys.

    Left as it is where they are not valid: the error that names the key comes later. ValueError where `data.fields` says otherwise
    than an objective needs.
    """
    try:
        objective_of = _parsed(tree, "objectives", objectives)
        readers = {f"objectives.{name}": each for name, each in objective_of.items()}
        readers["pooler"] = _parsed(tree, "pooler", pooler)
    except pydantic.ValidationError:
        return tree
    data = _block(tree.get("data"))
    fields = _block(data.get("fields"))
    if not all(isinstance(each, dict) for each in (data, fields)):
        return tree
    for reader, config in readers.items():
        for name, needed in getattr(config, "needed_fields", dict)().items():
            given = fields.get(name)
            if given is False:
                raise ValueError(f"{reader} reads the field '{name}', and data.fields.{name} is false")
            fields = fields | {name: _merged(_block(given), needed, f"data.fields.{name}", reader)}
    tree = _with_best_metric(tree | {"data": data | {"fields": fields}}, objective_of)
    if any(getattr(each, "reads_text", False) for each in objective_of.values()):
        return tree
    return _without_texts(tree)


def _with_best_metric(tree: dict, objective_of: dict) -> dict:
    evaluated = _block(tree.get("evaluate"))
    if not isinstance(evaluated, dict):
        return tree
    if isinstance(named := evaluated.get("best_metric"), str):
        return tree | {"evaluate": {"best_metric_mode": direction(named)} | evaluated}
    if not objective_of or not all(hasattr(each, "best_metric") for each in objective_of.values()):
        return tree
    # guessing hidden parts is what a run does for the sake of something else, where there is something else
    name, deciding = min(objective_of.items(), key=lambda item: getattr(item[1], "is_pretext", False))
    metric, mode = deciding.best_metric(name)
    return tree | {"evaluate": {"best_metric_mode": mode} | evaluated | {"best_metric": metric}}


def _without_texts(tree: dict) -> dict:
    data, towers = tree["data"], _block(tree.get("towers"))
    if not isinstance(towers, dict):
        return tree
    fields = {"report": False} | {
        name: False if isinstance(block, dict) and block.get("type", name) in TEXT_FIELDS else block
        for name, block in data["fields"].items()
    }
    return tree | {"towers": towers | {"text": None}, "data": data | {"fields": fields}}


def _parsed(tree: dict, key: str, kind: tuple[Any, Any]) -> Any:
    annotation, default = kind
    value = tree.get(key, default)
    value = typed_by_key(value) if key == "objectives" else value
    return pydantic.TypeAdapter(annotation).validate_python(value)


def _block(value: Any) -> Any:
    """A block as it stands in YAML; one that is not there is empty."""
    if isinstance(value, Block):
        return dump(value)
    if isinstance(value, dict):
        return {key: dump(each) if isinstance(each, Block) else each for key, each in value.items()}
    return {} if value is None else value


def _merged(given: Any, needed: Any, key: str, reader: str) -> Any:
    """Mappings and lists are joined; a value that is given must be the one that is needed."""
    if isinstance(given, dict) and isinstance(needed, dict):
        joined = {word_of(name): value for name, value in given.items()}
        for name, value in ((word_of(name), value) for name, value in needed.items()):
            joined[name] = _merged(joined[name], value, f"{key}.{name}", reader) if name in joined else value
        return joined
    if isinstance(given, list) and isinstance(needed, list):
        return [*given, *(each for each in needed if each not in given)]
    if given != needed:
        raise ValueError(f"{key} is {given!r}, and {reader} needs {needed!r}; give both the same")
    return given
