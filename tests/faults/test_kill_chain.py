"""One run killed again and again, at random and in every moment of saving, its newest checkpoint damaged in between: it ends as if nothing had been."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepcoro import checkpoint
from tests.faults.killable import FAULTS, Attempt, rows_of
from tests.launch import CONSTANT_LR, SILENT, last_step, losses, metrics, tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

# Dropout stays on. Odd steps are saved by the clock of rank 0 or not at all.
WORDS = (*SILENT, *CONSTANT_LR, "checkpoint.every_steps=2", "checkpoint.every_minutes=0.002")
EVERY_MOMENT = tuple(FAULTS)


def acknowledged(run_dir: Path) -> int:
    """The step that `latest` names: promised to be there."""
    latest = run_dir / "checkpoints" / "latest"
    return int(latest.read_text().removeprefix("step_")) if latest.is_file() else 0


def newest_whole(run_dir: Path) -> int:
    found = checkpoint.newest_whole(run_dir / "checkpoints")
    return 0 if found is None else found.step


def damage_newest(run_dir: Path, chance: random.Random) -> int:
    """A bit, a missing end or a missing file of the newest; the step of the one before it."""
    newest, before, *_ = checkpoint._committed(run_dir / "checkpoints")
    path = newest.folder / chance.choice([checkpoint.WEIGHTS, checkpoint.MOMENTS, checkpoint.STATE])
    content = bytearray(path.read_bytes())
    how = chance.randrange(3)
    if how == 0:
        content[chance.randrange(len(content))] ^= 1
        path.write_bytes(content)
    elif how == 1:
        path.write_bytes(content[: chance.randrange(len(content))])
    else:
        path.unlink()
    return before.step


@dataclass(frozen=True)
class Kill:
    """Of rank 0 at the fault, or a few steps after the run went on, anywhere within a step: of `victim`, or of all ranks at once."""

    fault: str | None = None
    victim: int | None = None

    def dying(self, world_size: int) -> list[int]:
        if self.fault is not None:
            return [0]
        return [*range(world_size)] if self.victim is None else [self.victim]


def killed_once(
    engine: str, world_size: int, words: list[str], run_dir: Path, how: Kill, chance: random.Random
) -> None:
    attempt = Attempt(engine, world_size, words, how.fault)
    began = newest_whole(run_dir)
    if how.fault is None:
        target = began + chance.randint(1, 4)
        attempt.wait_until(lambda: last_step(run_dir) >= target)
        attempt.wait_until(lambda: chance.random() < 0.1)
        attempt.kill(how.victim)
    codes = attempt.wait()
    assert codes == [-9 if rank in how.dying(world_size) else 1 for rank in range(world_size)], attempt.log()
    if 1 in codes:
        record = json.loads((run_dir / "exit.json").read_text())
        assert record["code"] == 1 and record["rank"] == codes.index(1), record
        assert "another rank was lost" in record["reason"] and "Traceback" not in attempt.log()
    assert acknowledged(run_dir) <= newest_whole(run_dir) <= last_step(run_dir), attempt.log()


def finished(engine: str, world_size: int, words: list[str]) -> None:
    attempt = Attempt(engine, world_size, words)
    assert attempt.wait() == [0] * world_size, attempt.log()


def kills_of_one_rank(number: int, chance: random.Random) -> list[Kill]:
    kills = [*map(Kill, EVERY_MOMENT), *[Kill()] * number][:number]
    chance.shuffle(kills)
    return kills


def kills_of_two_ranks(chance: random.Random) -> list[Kill]:
    """Either rank and both, between saves and in two moments of one."""
    kills = [
        Kill(victim=0),
        Kill(victim=1),
        Kill(),
        *map(Kill, chance.sample(EVERY_MOMENT, 2)),
    ]
    chance.shuffle(kills)
    return kills


@pytest.mark.parametrize(
    ("engine", "world_size", "number", "background"),
    [("ddp", 1, 20, "true"), ("ddp", 1, 7, "false"), ("zero2", 2, 5, "true")],
)
def test_a_run_that_is_killed_again_and_again_is_the_run_that_never_was(
    tiny_shards: Path, tmp_path: Path, engine: str, world_size: int, number: int, background: str
) -> None:
    chance, run_dir = random.Random(number), tmp_path / "killed"
    words = tiny(tiny_shards, run_dir, *WORDS, f"checkpoint.in_background={background}", "max_steps=100000")
    kills = kills_of_one_rank(number, chance) if world_size == 1 else kills_of_two_ranks(chance)
    fallbacks = 0
    for done, how in enumerate(kills):
        killed_once(engine, world_size, words, run_dir, how, chance)
        if done % 2 == 1 and len(checkpoint._committed(run_dir / "checkpoints")) > 1:
            assert newest_whole(run_dir) >= acknowledged(run_dir)
            before = damage_newest(run_dir, chance)
            assert newest_whole(run_dir) == before
            fallbacks += 1
    assert fallbacks > 1
    # an earlier attempt may have gone farther than the last one, whose metrics are those that are kept
    end = max([last_step(run_dir), *(step for _, step in rows_of(run_dir))]) + 2
    finished(engine, world_size, [*words, f"max_steps={end}"])
    assert sorted({line["step"] for line in metrics(run_dir)}) == list(range(1, end + 1))
    whole = tmp_path / "whole"
    finished(engine, world_size, tiny(tiny_shards, whole, *WORDS, f"max_steps={end}"))
    assert losses(run_dir) == pytest.approx(losses(whole), rel=1e-6)
    assert rows_of(run_dir) == rows_of(whole)
