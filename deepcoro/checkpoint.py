"""Checkpoints that do not depend on ZeRO stage or number of ranks: named fp32 weights, AdamW's moments, the run's state.

A folder `step_N` exists only when it is whole: it is written as `step_N.tmp`, synced, digested, verified and renamed; then
`latest` is replaced; only then are old ones removed. DeepSpeed's own files are not used (it names the newest checkpoint
before the other ranks have finished theirs).
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from deepcoro import distributed
from deepcoro.atomic import publish, write_bytes
from deepcoro.config import ConfigError, DataError
from deepcoro.engine import Engine
from deepcoro.weights import FILE as WEIGHTS
from deepcoro.weights import STATE

logger = logging.getLogger(__name__)

MOMENTS, DIGESTS = "moments.safetensors", "digests.json"


@dataclass(frozen=True)
class Checkpoint:
    """One committed folder, not yet read."""

    folder: Path

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step_"))

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / STATE).read_text())

    def weights(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / WEIGHTS)

    def moments(self) -> dict[str, Tensor]:
        from safetensors.torch import load_file

        return load_file(self.folder / MOMENTS)

    def is_whole(self) -> bool:
        """Whether every file is there and has the digest that was taken when it was written."""
        try:
            digests = json.loads((self.folder / DIGESTS).read_text())
        except (OSError, json.JSONDecodeError):
            return False
        return all(_digest(self.folder / name) == digest for name, digest in digests.items())

    def digest(self) -> str:
        """Names the weights: short digest of the weights file."""
        return json.loads((self.folder / DIGESTS).read_text())[WEIGHTS][:16]


def save(folder: Path, step: int, engine: Engine, state: dict[str, Any], keep: int) -> Checkpoint:
    """Writes `folder/step_N` for all ranks; keeps the newest `keep` and the one named `best`. Collective.

    Raises OSError when the disk refuses; earlier checkpoints are then untouched.
    """
    from safetensors.torch import save_file

    weights, moments = engine.full_weights(), engine.full_moments()
    final = folder / f"step_{step}"
    if distributed.rank() == 0:
        temporary = folder / f"step_{step}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(weights, temporary / WEIGHTS)
        save_file(moments, temporary / MOMENTS)
        (temporary / STATE).write_text(json.dumps(state))
        digests = {name: _synced_digest(temporary / name) for name in (WEIGHTS, MOMENTS, STATE)}
        write_bytes(temporary / DIGESTS, json.dumps(digests).encode())
        publish(temporary, final)
        write_bytes(folder / "latest", final.name.encode())
        _prune(folder, keep)
    distributed.barrier()
    return Checkpoint(final)


def mark_best(folder: Path, step: int) -> None:
    """`best` names the checkpoint with the best evaluation so far."""
    if distributed.rank() == 0:
        write_bytes(folder / "best", f"step_{step}".encode())


def newest_whole(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, the same on every rank; None when none was ever committed. Collective.

    DataError when some were committed and none is whole: starting over would throw acknowledged work away in silence.
    """
    name = _newest_whole_name(folder) if distributed.rank() == 0 else None
    name = distributed.broadcast_object(name)
    if name == "":
        raise DataError(
            f"{folder} holds checkpoints and none of them is whole; restore one, or remove the folder to start over"
        )
    return Checkpoint(folder / name) if name else None


def _newest_whole_name(folder: Path) -> str | None:
    """None: nothing was committed; empty: nothing committed is whole."""
    committed = _committed(folder)
    damaged = []
    for checkpoint in committed:
        if checkpoint.is_whole():
            _set_aside(damaged)
            return checkpoint.folder.name
        logger.warning("checkpoint %s is damaged; looking for an older one", checkpoint.folder.name)
        damaged.append(checkpoint)
    if not committed and list(folder.glob("step_*.tmp")):
        logger.warning(
            "only an unfinished checkpoint was found: nothing had been acknowledged, starting over"
        )
    return "" if committed else None


def newest_before(folder: Path, step: int) -> Checkpoint | None:
    """The newest whole checkpoint of fewer than `step` steps, else the oldest whole one; None when there is none. Collective."""
    name = None
    if distributed.rank() == 0:
        whole = [each for each in _committed(folder) if each.is_whole()]
        older = [each for each in whole if each.step < step] or whole[-1:]
        name = older[0].folder.name if older else None
    name = distributed.broadcast_object(name)
    return Checkpoint(folder / name) if name else None


def give_up_after(folder: Path, step: int, best_step: int) -> None:
    """Removes the checkpoints of later steps: the run continues from `step`, before which the best was `best_step`. Collective."""
    if distributed.rank() == 0:
        for each in _committed(folder):
            if each.step > step:
                shutil.rmtree(each.folder)
        for pointer, name in (("latest", f"step_{step}"), ("best", f"step_{best_step}")):
            if (folder / name).is_dir():
                write_bytes(folder / pointer, name.encode())
            else:
                (folder / pointer).unlink(missing_ok=True)
    distributed.barrier()


def _set_aside(damaged: list[Checkpoint]) -> None:
    """Else they would count as the newest ones to keep, and stand where the resumed run writes."""
    for checkpoint in damaged:
        aside = checkpoint.folder.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.folder.replace(aside)


def find(folder: Path, name: str) -> Checkpoint:
    """The checkpoint that `best`, `last` or `step_N` means. ConfigError, with what there is, when there is none."""
    committed = _committed(folder)
    there = [checkpoint.folder.name for checkpoint in committed]
    if not committed:
        raise ConfigError(f"{folder} holds no checkpoint; train first, or set run_dir to a trained run")
    if name == "last":
        name = there[0]
    elif name == "best":
        pointer = folder / "best"
        name = pointer.read_text() if pointer.is_file() else there[0]
    if name not in there:
        raise ConfigError(
            f"checkpoint '{name}' is not in {folder}; there are: best, last, {', '.join(there)}"
        )
    checkpoint = Checkpoint(folder / name)
    if not checkpoint.is_whole():
        raise DataError(f"checkpoint {name} in {folder} is damaged; choose another of: {', '.join(there)}")
    return checkpoint


def _committed(folder: Path) -> list[Checkpoint]:
    """Newest first."""
    folders = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted((Checkpoint(path) for path in folders), key=lambda each: -each.step)


def _prune(folder: Path, keep: int) -> None:
    best = folder / "best"
    kept = best.read_text() if best.is_file() else None
    for checkpoint in _committed(folder)[keep:]:
        if checkpoint.folder.name != kept:
            shutil.rmtree(checkpoint.folder)


def _synced_digest(path: Path) -> str:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _digest(path)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
