"""A model has seen the patients of its own training and those of the weights it started from; nobody is evaluated on either."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deepcoro.config import DataError
from deepcoro.exported import export_encoder
from deepcoro.seen import SAW_NOBODY, Seen, overlap, seen_of_state, seen_through
from deepcoro.towers.video_mvit import Config
from tests.launch import SILENT, STEADY, main_on_this_rank, tiny

ANNA, BERT = Seen(frozenset({"anna"}), frozenset({"key"})), Seen(frozenset({"bert"}), frozenset({"key"}))


def test_an_overlap_is_none_only_where_every_patient_is_known_and_keyed_alike():
    assert overlap(ANNA, BERT, "test") == "none"
    for trained in (
        Seen(),
        Seen(ANNA.patients, ANNA.keys, is_whole=False),
        Seen(ANNA.patients, frozenset({"other"})),
    ):
        assert overlap(trained, BERT, "test") == overlap(BERT, trained, "test") == "unknown"
    with pytest.raises(DataError, match="1 of 1 patients of split 'test' were in this checkpoint's training"):
        overlap(ANNA.joined(BERT), BERT, "test")


def test_what_a_checkpoint_keeps_is_read_back_and_an_older_one_does_not_say_that_it_is_all():
    assert seen_of_state(json.loads(json.dumps(ANNA.joined(BERT).to_state()))) == ANNA.joined(BERT)
    assert not seen_of_state({"training_patients": ["anna"]}).is_whole


def test_weights_saw_whom_their_checkpoint_names_and_nobody_where_they_are_of_one_tower(tmp_path: Path):
    step = tmp_path / "run" / "checkpoints" / "step_1"
    step.mkdir(parents=True)
    model = {name: torch.zeros(1) for name in ("normalisation.mean", "normalisation.std", "towers.video.x")}
    save_file(model, step / "weights.safetensors")
    (step / "state.json").write_text(json.dumps({"data": ANNA.to_state()}))
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step_1")
    for source in (tmp_path / "run", step, step / "weights.safetensors"):
        assert seen_through(str(source)) == ANNA
    save_file(model, tmp_path / "moved.safetensors")
    assert not seen_through(str(tmp_path / "moved.safetensors")).is_whole
    save_file({"x": torch.zeros(1)}, tmp_path / "public.safetensors")
    assert seen_through(str(tmp_path / "public.safetensors")) == seen_through(None) == Seen()


@pytest.mark.parametrize(("provenance", "is_whole"), [({"step": 2}, False), ({SAW_NOBODY: True}, True)])
def test_an_exported_encoder_carries_nobody_so_a_runs_is_not_known(tmp_path: Path, provenance, is_whole):
    tower = Config(variant="tiny").build(4, 32)
    export_encoder(tower, tmp_path / "encoder", provenance=provenance)
    assert seen_through(str(tmp_path / "encoder")) == Seen(is_whole=is_whole)


def test_a_run_hands_on_whom_it_has_seen(
    tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A patient of the first run's training is in the second run's val split, or in the test split that it is to be evaluated on."""
    short = (*STEADY, *SILENT, "max_steps=1")
    assert main_on_this_rank("ddp", *tiny(tiny_shards, tmp_path / "first", *short)) == 0
    start = (*short, f"towers.video.weights={tmp_path / 'first'}")
    for split, second in (("val", tmp_path / "chosen"), ("test", tmp_path / "evaluated")):
        shards = shutil.copytree(tiny_shards, tmp_path / f"shards_{split}")
        table = (shards / "splits.csv").read_text()
        (shards / "splits.csv").write_text(table.replace(",train", f",{split}", 1))
        code = main_on_this_rank("ddp", *tiny(shards, second, *start))
        if split == "test":
            assert code == 0
            code = main_on_this_rank("ddp", *tiny(shards, second, *start, "run_mode=test"))
        assert code == 2
        assert f"patients of split '{split}' were in this checkpoint's training" in capsys.readouterr().err
