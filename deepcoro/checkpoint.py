"""Checkpoints that do not depend on ZeRO stage or number of ranks: named fp32 weights, AdamW's moments, the run's state.

A folder `step_N` exists only when it is whole: it is written as `step_N.tmp`, synced, digested, verified and renamed; then
`latest` and `best` are replaced; only then are old ones removed. A disk that refuses leaves the earlier ones as they were.
DeepSpeed's own files are not used (it names the newest checkpoint before the other ranks have finished theirs).
"""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepcoro import distributed
from deepcoro.atomic import publish, write_bytes
from deepcoro.config import ConfigError, DataError
from deepcoro.engine import Engine
from deepcoro.weights import FILE as WEIGHTS
from deepcoro.weights import MOMENTS, STATE, read_averages

logger = logging.getLogger(__name__)

DIGESTS = "digests.json"
NAMES_BYTES = 2**20
"""Room for the names of tensors, digests and pointers, which `Snapshot.bytes` leaves out."""


class CheckpointError(DataError):
    """A checkpoint could not be written. Exit code 2."""

    topic = "disk-full"


@dataclass(frozen=True)
class Checkpoint:
    """One committed folder, not yet read."""

    folder: Path

    @property
    def step(self) -> int:
        return int(self.folder.name.removeprefix("step_"))

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / STATE).read_text())

    def epoch(self) -> int | None:
        """Epochs that were finished; None where it does not say, as one that was imported."""
        return self.state().get("stream", {}).get("epoch")

    def weights(self) -> dict[str, Tensor]:
        return load_file(self.folder / WEIGHTS)

    def evaluated_weights(self) -> dict[str, Tensor]:
        """What is measured and predicts: averages (`ema.decay`) where they are kept, else the weights that training goes on from."""
        return self.weights() | read_averages(self.folder)

    def moments(self) -> dict[str, Tensor]:
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

    def title(self) -> str:
        """As pages and records name it."""
        return f"step {self.step} ({self.digest()})"


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint will hold, apart from the training that goes on: copies in the memory of rank 0's host; the other ranks' are empty."""

    step: int
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    state: bytes
    """JSON."""
    is_best: bool

    @property
    def bytes(self) -> int:
        """What its folder takes on disk, but for names and digests."""
        tensors = [*self.weights.values(), *self.moments.values()]
        return len(self.state) + sum(each.numel() * each.element_size() for each in tensors)


def take(step: int, engine: Engine, state: dict[str, Any], is_best: bool = False) -> Snapshot:
    """Collective."""
    weights, moments = engine.full_weights(), engine.full_moments()
    return Snapshot(step, weights, moments, json.dumps(state).encode(), is_best)


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay: the newest, the best, and those of every `every_steps`-th step (None: not because of their step)."""

    newest: int
    every_steps: int | None = None

    def keeps(self, step: int) -> bool:
        return self.every_steps is not None and step % self.every_steps == 0


def write(folder: Path, snapshot: Snapshot, retention: Retention) -> None:
    """Rank 0: `folder/step_N`, and its name in `latest`; then removes those that retention lets go.

    CheckpointError when the disk refuses: nothing of this one stays, the earlier ones are untouched.
    """
    temporary = folder / f"step_{snapshot.step}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for leftover in folder.glob("step_*.tmp"):  # of a writer that was killed
            shutil.rmtree(leftover)
        _refuse_full_disk(folder, snapshot)
        _write_files(temporary, snapshot)
        publish(temporary, folder / f"step_{snapshot.step}")
        write_bytes(folder / "latest", f"step_{snapshot.step}".encode())
        if snapshot.is_best:
            mark_best(folder, snapshot.step)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_refused(folder, snapshot, f"the disk refused it ({error})")) from error
    _prune(folder, retention)


def _write_files(temporary: Path, snapshot: Snapshot) -> None:
    temporary.mkdir()
    save_file(snapshot.weights, temporary / WEIGHTS)
    save_file(snapshot.moments, temporary / MOMENTS)
    (temporary / STATE).write_bytes(snapshot.state)
    digests = {name: _synced_digest(temporary / name) for name in (WEIGHTS, MOMENTS, STATE)}
    write_bytes(temporary / DIGESTS, json.dumps(digests).encode())


def _refuse_full_disk(folder: Path, snapshot: Snapshot) -> None:
    disk = shutil.disk_usage(folder)
    is_known = disk.total > 0  # some network file systems tell nothing
    if is_known and disk.free < snapshot.bytes + NAMES_BYTES:
        raise CheckpointError(_refused(folder, snapshot, "it was not begun"))


def _refused(folder: Path, snapshot: Snapshot, what: str) -> str:
    earlier = _committed(folder)
    newest = f"{earlier[0].folder.name} and those before it are" if earlier else "no earlier one is"
    free = shutil.disk_usage(folder).free
    return (
        f"checkpoint step_{snapshot.step} needs {snapshot.bytes / 1e9:.3f} GB in {folder}, {free / 1e9:.3f} GB are free: {what}; "
        f"{newest} there, untouched. Make room (other runs, a smaller checkpoint.keep) or move run_dir to another disk, "
        "then give the same command: it goes on from there"
    )


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
            f"{folder} holds checkpoints and none of them is whole; restore one, or remove the folder to start over",
            topic="no-checkpoint",
        )
    return Checkpoint(folder / name) if name else None


def _newest_whole_name(folder: Path) -> str | None:
    """None: nothing was committed; empty: nothing committed is whole."""
    committed = _committed(folder)
    damaged = []
    for checkpoint in committed:
        if checkpoint.is_whole():
            _set_aside(damaged, checkpoint)
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


def _set_aside(damaged: list[Checkpoint], whole: Checkpoint) -> None:
    """Else they would count as the newest ones to keep, and stand where the resumed run writes. `latest` and `best` name none of them."""
    folder, names = whole.folder.parent, {checkpoint.folder.name for checkpoint in damaged}
    for checkpoint in damaged:
        aside = checkpoint.folder.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.folder.replace(aside)
    if damaged:
        write_bytes(folder / "latest", whole.folder.name.encode())
    best = folder / "best"
    if best.is_file() and best.read_text() in names:
        logger.warning("the best checkpoint was damaged: until a better one comes, the newest is the best")
        best.unlink()


def names_best(folder: Path) -> bool:
    """Whether an evaluation while training has named a best checkpoint."""
    return (folder / "best").is_file()


def find(folder: Path, name: str) -> Checkpoint:
    """The checkpoint that `best`, `last` or `step_N` means. ConfigError, with what there is, when there is none.

    `best` is the newest, with a warning, where none was named the best.
    """
    committed = _committed(folder)
    there = [checkpoint.folder.name for checkpoint in committed]
    if not committed:
        raise ConfigError(
            f"{folder} holds no checkpoint; train first, or set run_dir to a trained run",
            topic="no-checkpoint",
        )
    if name == "last":
        name = there[0]
    elif name == "best":
        name = (folder / "best").read_text() if names_best(folder) else _newest_for_best(folder, there)
    if name not in there:
        raise ConfigError(
            f"checkpoint '{name}' is not in {folder}; there are: best, last, {', '.join(there)}",
            topic="no-checkpoint",
        )
    checkpoint = Checkpoint(folder / name)
    if not checkpoint.is_whole():
        raise DataError(
            f"checkpoint {name} in {folder} is damaged; choose another of: {', '.join(there)}",
            topic="no-checkpoint",
        )
    return checkpoint


def _newest_for_best(folder: Path, there: list[str]) -> str:
    logger.warning(
        "%s names no best checkpoint, since evaluate.best_metric was never measured on val while training; the newest, %s, is taken",
        folder,
        there[0],
    )
    return there[0]


def _committed(folder: Path) -> list[Checkpoint]:
    """Newest first."""
    folders = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted((Checkpoint(path) for path in folders), key=lambda each: -each.step)


def _prune(folder: Path, retention: Retention) -> None:
    """One that cannot be removed is no reason to stop."""
    best = folder / "best"
    kept = best.read_text() if best.is_file() else None
    for checkpoint in _committed(folder)[retention.newest :]:
        if checkpoint.folder.name == kept or retention.keeps(checkpoint.step):
            continue
        try:
            shutil.rmtree(checkpoint.folder)
        except OSError as error:
            logger.warning("old checkpoint %s stays: %s", checkpoint.folder.name, error)


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
