"""How often a step runs the encoder: once for all objectives that read whole films, and for nothing that takes no part."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from deepcoro import train
from deepcoro.checkpoint import Checkpoint
from deepcoro.step import train_step
from deepcoro.towers.video_mvit import VideoMViT
from tests.launch import SILENT, losses, main_on_this_rank

STEPS = 4
LATE = "schedules={masked_modeling: {start_step: 2}}"
ENCODE = VideoMViT.encode


def words(shards: Path, run_dir: Path, *more: str) -> list[str]:
    """A run of contrastive, captioning and masked modelling with a teacher."""
    given = (
        "freeze=[]",
        f"max_steps={STEPS}",
        "checkpoint.every_steps=1",
        "checkpoint.keep=9",
        *SILENT,
        *more,
    )
    return ["demo/tiny_multitask", f"data.shards={shards}", f"run_dir={run_dir}", *given]


def passes_of_steps(*given: str) -> list[list[str]]:
    """What the encoder is called for in each optimiser step while train.py runs."""
    steps: list[list[str]] = []

    def counted_step(*arguments: object) -> object:
        steps.append([])
        return train_step(*arguments)

    def counted_encode(
        encoder: VideoMViT, video: torch.Tensor, visible: torch.Tensor | None = None
    ) -> object:
        is_student = any(each.requires_grad for each in encoder.parameters())
        steps[-1].append("teacher" if not is_student else "dense" if visible is None else "sparse")
        return ENCODE(encoder, video, visible)

    with (
        mock.patch.object(train, "train_step", counted_step),
        mock.patch.object(VideoMViT, "encode", counted_encode),
    ):
        assert main_on_this_rank("ddp", *given) == 0
    return [sorted(step) for step in steps]


@pytest.fixture(scope="module")
def late(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A run whose masked modelling begins after two of four steps, and its passes."""
    folder = tmp_path_factory.mktemp("passes")
    return folder, passes_of_steps(*words(tiny_shards, folder, LATE))


def test_masked_modelling_adds_a_sparse_pass_and_its_teachers_from_its_start_on(
    late: tuple[Path, list[list[str]]],
) -> None:
    assert late[1] == [["dense"], ["dense"], ["dense", "sparse", "teacher"], ["dense", "sparse", "teacher"]]


@pytest.mark.parametrize(
    ("latent", "beginning", "expected"),
    [
        ("dense", "{masked_modeling: {start_step: 1}}", [["dense"], ["dense", "sparse"]]),
        (
            "none",
            "{contrastive: {start_step: 1}, captioning: {start_step: 1}}",
            [["sparse"], ["dense", "sparse"]],
        ),
    ],
)
def test_one_dense_pass_serves_captioning_contrast_and_latent_targets_and_none_is_run_for_nobody(
    tiny_shards: Path, tmp_path: Path, latent: str, beginning: str, expected: list[list[str]]
) -> None:
    more = (f"objectives.masked_modeling.latent={latent}", f"schedules={beginning}", "max_steps=2")
    assert passes_of_steps(*words(tiny_shards, tmp_path, *more)) == expected


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_resumed_where_its_teacher_starts_or_just_after_is_the_run_that_went_through(
    tiny_shards: Path, late: tuple[Path, list[list[str]]], tmp_path: Path, step: int
) -> None:
    run_dir = shutil.copytree(late[0], tmp_path / "run")
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(run_dir / "checkpoints" / f"step_{later}")
    assert main_on_this_rank("ddp", *words(tiny_shards, run_dir, LATE)) == 0
    assert losses(run_dir) == losses(late[0])
    whole, resumed = (
        Checkpoint(folder / "checkpoints" / f"step_{STEPS}").weights() for folder in (late[0], run_dir)
    )
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)
