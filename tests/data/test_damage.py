"""What is lost is counted over all ranks, named by shard and key, and stops every rank at the same step with the same words."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest

from deepcoro.checkpoint import newest_whole
from deepcoro.config import DataError
from deepcoro.data.damage import TABLE, Bad, Damage, unreadable_of_split
from deepcoro.data.shards import Shards
from tests.launch import SILENT, exit_code, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks


def bad(*keys: str, shard: str = "shard-000001.tar") -> list[Bad]:
    return [Bad(key, shard, "fails its checksum") for key in keys]


def test_the_share_is_of_an_epoch_at_least_and_then_of_all_rows() -> None:
    damage = Damage(200, 0.02)
    damage.note(bad("a", "b", "c", "d"))
    assert damage.agree(damage.own, 16) == {"data/bad_samples": 4.0, "data/bad_fraction": 0.02}
    assert damage.agree(damage.own, 400)["data/bad_fraction"] == 0.01
    damage.note(bad("e"))
    assert damage.agree(damage.own, 250)["data/bad_fraction"] == 0.02
    with pytest.raises(DataError) as raised:
        damage.agree(damage.own, 200)
    assert str(raised.value) == (
        "5 of 200 samples cannot be read (2.5%), more than max_bad_fraction 0.02 allows: shard-000001.tar 5. "
        "One of them: a: shard-000001.tar: fails its checksum. Restore the shards or raise data.max_bad_fraction"
    )


def test_the_first_are_logged_by_name_and_the_rest_by_their_number(caplog: pytest.LogCaptureFixture) -> None:
    damage = Damage(10_000, 1.0)
    damage.note(bad(*(f"study{number}" for number in range(1000))))
    named = [line for line in caplog.messages if " is masked: " in line]
    counted = [line for line in caplog.messages if " are masked so far" in line]
    assert len(named) == 20 and named[7] == "sample study7 is masked: shard-000001.tar: fails its checksum"
    assert [int(line.split()[0]) for line in counted] == [32, 64, 128, 256, 512]


def test_an_epoch_ends_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    damage = Damage(100, 1.0)
    damage.agree(damage.own, 100)
    damage.end_epoch(0)
    damage.note(bad("a", "b") + bad("c", shard="shard-000007.tar"))
    damage.agree(damage.own, 200)
    damage.end_epoch(1)
    damage.agree(damage.own, 300)
    damage.end_epoch(2)
    assert [line for line in caplog.messages if line.startswith("epoch")] == [
        "epoch 0: all samples could be read",
        "epoch 1: 3 of 100 samples could not be read (3.00 %): shard-000001.tar 2, shard-000007.tar 1",
        "epoch 2: all samples could be read",
    ]


def test_a_state_goes_on_counting_where_it_was_taken(tmp_path: Path) -> None:
    before = Damage(100, 0.05, tmp_path)
    before.note(bad("a", "b", "c"))
    before.agree(before.own, 50)
    before.merge()
    after = Damage(100, 0.05, tmp_path)
    after.restore(json.loads(json.dumps(before.state())))
    assert after.agree(after.own, 60)["data/bad_samples"] == 3
    after.note(bad("d"))
    after.agree(after.own, 70)
    after.merge()
    rows = list(csv.DictReader((tmp_path / TABLE).open()))
    assert [row["sample"] for row in rows] == ["a", "b", "c", "d"]
    assert set(rows[0]) == {"sample", "shard", "reason"} and rows[0]["shard"] == "shard-000001.tar"
    after.note(bad("e", "f"))
    with pytest.raises(DataError, match="6 of 100"):
        after.agree(after.own, 80)


def _merged(rank: int) -> tuple:
    damage = Damage(100, 1.0)
    damage.note(bad("a") if rank == 0 else bad("b", "c"))
    damage.agree(3, 10)
    damage.merge()
    found = unreadable_of_split(bad("z") if rank else [], 50, 0.02)
    return damage.state(), found


@pytest.mark.slow
def test_every_rank_knows_what_the_others_met(two_ranks: Ranks) -> None:
    first, second = two_ranks.run(_merged)
    assert first == second
    assert list(first[0]["quarantine"]) == ["a", "b", "c"] and first[0]["bad_samples"] == 3
    assert first[1] == {"z": "shard-000001.tar: fails its checksum"}


def _with_damage_on_rank_1(rank: int, whole: str, damaged: str, run_dir: str, *words: str) -> tuple[str, int]:
    """What a rank says when it stops, and how many steps it had done."""
    steps = [0]
    from unittest import mock

    from deepcoro.tracking import Tracker

    advance = Tracker.advance

    def counting(self: Tracker, step: int) -> None:
        steps[0] = step
        advance(self, step)

    shards = damaged if rank else whole
    with mock.patch.object(Tracker, "advance", counting):
        try:
            code = main_on_this_rank("ddp", *tiny(Path(shards), Path(run_dir), *words, "--debug"))
        except DataError as error:
            return str(error), steps[0]
    return str(code), steps[0]


@pytest.fixture(scope="module")
def damaged(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder with a bit of every second tar's films gone, as on a node with a failing disk."""
    folder = shutil.copytree(tiny_shards, tmp_path_factory.mktemp("damaged") / "shards")
    shards = Shards.open(folder)
    for number, shard in enumerate(shards.manifest.shards):
        if number % 2 == 0:
            tar = folder / shard.name
            content = bytearray(tar.read_bytes())
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
            tar.write_bytes(content)
    return folder


@pytest.mark.slow
def test_damage_on_rank_1_alone_stops_both_ranks_at_the_same_step_with_the_same_words(
    tiny_shards: Path, damaged: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = (*SILENT, "max_steps=40", "tracking.log_every_steps=2", "checkpoint.every_steps=50")
    arguments = (str(tiny_shards), str(damaged), str(tmp_path))
    first, second = two_ranks.run(_with_damage_on_rank_1, *arguments, *words, "data.max_bad_fraction=0.03")
    assert first == second and "more than max_bad_fraction 0.03 allows: shard-0000" in first[0]
    assert exit_code(tmp_path) == 2
    assert json.loads((tmp_path / "exit.json").read_text())["reason"] == first[0]
    assert TABLE in {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_what_rank_1_lost_is_in_metrics_checkpoint_table_and_report(
    tiny_shards: Path, damaged: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    words = (*SILENT, "max_steps=8", "tracking.log_every_steps=3", "data.max_bad_fraction=1.0")
    arguments = (str(tiny_shards), str(damaged), str(tmp_path))
    assert two_ranks.run(_with_damage_on_rank_1, *arguments, *words) == [("0", 8)] * 2
    lines = metrics(tmp_path)
    lost = [line["data/bad_samples"] for line in lines]
    assert lost == sorted(lost) and lost[-1] > 0
    units = Shards.open(tiny_shards).units("train", False, 1)
    state = newest_whole(tmp_path / "checkpoints").state()["stream"]
    assert state["bad_samples"] == lost[-1]
    assert set(state["quarantine"]) <= {units.name(unit) for unit in range(len(units))}
    assert 0 < len(state["quarantine"]) <= lost[-1]
    rows = list(csv.DictReader((tmp_path / TABLE).open()))
    assert [row["sample"] for row in rows] == sorted(state["quarantine"])
    assert all(row["shard"].startswith("shard-0") and row["reason"] for row in rows)
    assert f"{lost[-1]:.0f} samples (" in (tmp_path / "report.html").read_text()
    ends = [line["step"] for line in lines if line["step"] % 3 and line["step"] != 8]
    per_epoch = len(units) / (2 * 4)
    assert ends == [step for step in (int(-(-per_epoch // 1)),) if step % 3 and step < 8]
