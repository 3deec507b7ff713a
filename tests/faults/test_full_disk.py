"""A disk that is full ends the run with one line, at the same step on every rank; with room again, the same command goes on."""

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepcoro import checkpoint
from tests.launch import CONSTANT_LR, SILENT, exit_code, losses, main_on_rank, main_on_this_rank, tiny
from tests.ranks import Ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

WORDS = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=2", "max_steps=6")


@pytest.fixture(scope="module")
def whole(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that met no full disk."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    assert main_on_this_rank("ddp", *tiny(tiny_shards, run_dir, *WORDS)) == 0
    return run_dir


@pytest.fixture(scope="module")
def of_one(whole: Path) -> int:
    """Bytes of a checkpoint."""
    return sum(path.stat().st_size for path in (whole / "checkpoints" / "step_6").iterdir())


@pytest.fixture
def small_disk(tmp_path: Path, of_one: int) -> Iterator[Path]:
    """A file system with room for two checkpoints and a half, and what else a run writes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = int(2.5 * of_one) + 2 * checkpoint.NAMES_BYTES
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(
            f"a small disk cannot be mounted here ({mounted.stderr.strip()}); a limit on files stands for it below"
        )
    yield folder
    subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def filled_up(disk: Path, left: int) -> Iterator[None]:
    """Somebody else takes the room, but for `left` bytes."""
    with (disk / "others").open("wb") as file, contextlib.suppress(OSError):
        free = subprocess.run(
            ["df", "--output=avail", "-B1", disk], capture_output=True, text=True, check=True
        )
        file.write(bytes(int(free.stdout.split()[1]) - left))
    yield
    (disk / "others").unlink()


def as_it_was(run_dir: Path, newest: int) -> None:
    """Earlier checkpoints are whole, nothing lies beside them."""
    folder = run_dir / "checkpoints"
    assert (folder / "latest").read_text() == f"step_{newest}"
    assert checkpoint.newest_whole(folder).step == newest
    assert {path.name for path in folder.iterdir()} == {"latest", f"step_{newest}"}


def lines_of(capsys: pytest.CaptureFixture) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("CheckpointError: ")]


@pytest.mark.parametrize("is_told", [True, False])
def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(
    tiny_shards: Path,
    small_disk: Path,
    whole: Path,
    of_one: int,
    is_told: bool,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`is_told`: else the disk fills up in the middle, as with a quota, of which a file system says nothing beforehand."""
    run_dir = small_disk / "run"
    words = tiny(tiny_shards, run_dir, *WORDS)
    assert main_on_this_rank("ddp", *words, "max_steps=2") == 0
    capsys.readouterr()
    with filled_up(small_disk, left=of_one // 2), monkeypatch.context() as patch:
        if not is_told:
            patch.setattr(checkpoint, "_refuse_full_disk", lambda *_: None)
        assert main_on_this_rank("ddp", *words) == 2
        as_it_was(run_dir, newest=2)
    [line] = lines_of(capsys)
    assert ("it was not begun" in line) == is_told and ("No space left" in line) != is_told
    assert f"needs {of_one / 1e9:.3f}" in line and "step_2 and those before it are there" in line
    assert main_on_this_rank("ddp", *words) == 0 and exit_code(run_dir) == 0
    assert losses(run_dir) == losses(whole)


def main_with_small_files(rank: int, limit: int, engine: str, *words: str) -> int:
    """Rank 0 writes no file of more than `limit` bytes: without a right to mount, what is nearest to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        return main_on_this_rank(engine, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("background", ["true", "false"])
def test_every_rank_stops_when_rank_0_cannot_write(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, whole: Path, background: str
) -> None:
    weights = (whole / "checkpoints" / "step_6" / checkpoint.WEIGHTS).stat().st_size
    words = tiny(tiny_shards, tmp_path, *WORDS, f"checkpoint.in_background={background}")
    assert two_ranks.run(main_on_rank, "zero2", *words, "max_steps=2") == [0, 0]
    assert two_ranks.run(main_with_small_files, weights + 1, "zero2", *words) == [2, 2]
    as_it_was(tmp_path, newest=2)
    assert max(losses(tmp_path)) <= (4 if background == "false" else 6)
    assert two_ranks.run(main_on_rank, "zero2", *words) == [0, 0]
    assert set(losses(tmp_path)) == {1, 2, 3, 4, 5, 6}
