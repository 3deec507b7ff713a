"""What a withdrawn patient left outside the shard folder: copies in caches, results in run folders, and checkpoints that learned from them."""

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from deepcoro import atomic
from deepcoro.data.withdrawal import Withdrawn

logger = logging.getLogger(__name__)

_STATE = "state.json"  # as in deepcoro/weights.py, which imports torch
_PAGES = (".html", ".csv", ".json", ".txt", ".log", ".npz")
_BLOCK = 1 << 22


def clean_cache(folder: Path, withdrawn: Sequence[Withdrawn]) -> int:
    """Deletes the copies of tars that held withdrawn films, known by the digest in their path; returns how many files."""
    digests = tuple({each.sha256 for each in withdrawn})
    deleted = 0
    for path in sorted(folder.rglob("*")):
        if not any(digest in path.name for digest in digests) or not path.exists():
            continue
        if path.is_dir():
            deleted += sum(each.is_file() for each in path.rglob("*"))
            shutil.rmtree(path)
        else:
            deleted += 1
            path.unlink()
    return deleted


def checkpoints_that_saw(folder: Path, withdrawn: Sequence[Withdrawn]) -> list[Path]:
    """Checkpoints below the folder whose training patients include one of these; their weights cannot forget, only be deleted."""
    digests = {each.digest for each in withdrawn}
    return sorted(
        state.parent for state in folder.rglob(f"step_*/{_STATE}") if digests & _training_patients(state)
    )


def _training_patients(state: Path) -> set[str]:
    """Digests of every patient that a checkpoint names, in whichever of its data sets."""
    try:
        found = json.loads(state.read_text())
    except (OSError, ValueError):
        logger.warning("%s of %s cannot be read: it is not known whom it saw", _STATE, state.parent.name)
        return set()
    return set(_lists_under(found, "training_patients"))


def _lists_under(tree: object, key: str) -> Iterator[str]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from value if name == key and isinstance(value, list) else _lists_under(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _lists_under(value, key)


def clean_run(folder: Path, ids: set[str]) -> tuple[list[Path], list[Path]]:
    """Takes results that name one of the ids (keyed studies, films, patients) out of a run folder: (deleted, filtered) files.

    Parquet banks lose the rows; pages, tables and strips are deleted whole, for a text of the patient may stand beside the
    film of another: make them again with the run's val, test or inference.
    """
    deleted, filtered = [], []
    needles = [each.encode() for each in ids]
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith("step_") for part in path.relative_to(folder).parts):
            continue
        if path.suffix == ".parquet" and _filter_bank(path, ids):
            filtered.append(path)
        elif path.suffix in _PAGES and path.exists() and _holds(path, needles):
            # tables that belong together have one stem: `shards_test.csv`, `shards_test_unique_texts.csv`
            for each in sorted(path.parent.glob(f"{path.stem}*")):
                each.unlink()
                deleted.append(each)
    return deleted, filtered


def _holds(path: Path, needles: Sequence[bytes]) -> bool:
    """Whether a file holds one of the strings, read in blocks that overlap by the longest."""
    overlap, tail = max(map(len, needles), default=1), b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if any(needle in tail + block for needle in needles):
                return True
            tail = block[-overlap:]
    return False


def _filter_bank(path: Path, ids: set[str]) -> bool:
    table = pyarrow.parquet.read_table(path)
    gone = np.zeros(table.num_rows, bool)
    for name in table.column_names:
        if pyarrow.types.is_string(table[name].type):
            # a film may be named by its study, `study.000`
            values = (value or "" for value in table[name].to_pylist())
            gone |= np.fromiter((value.partition(".")[0] in ids for value in values), bool, table.num_rows)
    if gone.any():
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(
            table.filter(pyarrow.array(~gone)).replace_schema_metadata(table.schema.metadata), sink
        )
        atomic.write_bytes(path, sink.getvalue().to_pybytes())
    return bool(gone.any())
