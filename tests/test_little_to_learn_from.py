"""The three objectives together on a batch of one and data that tell them little: a training on one rank, and what its evaluation says."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.data.manifest import Encoding
from deepcoro.sample import Report
from tests.data.folder import study_with, write_folder
from tests.launch import main_on_this_rank, metrics

# An epoch of the train split's three studies; each has room for more films than there are.
WORDS = (
    *("batch_size=1", "max_steps=3", "data.multi_video=true", "data.num_videos=3"),
    *("schedules={}", "freeze=[]", "evaluate.num_examples=1"),
)
SPLITS = ("train", "val", "test")
TextOf = Callable[[int], str | None]


def short(number: int) -> str:
    return render(SideFindings("left", lesions=(Lesion("mid_lad", 40 + 5 * number),)))


def long(number: int) -> str:
    """Several times the 64 tokens of the tower's window and the 48 of the decoder's; told apart by the last word."""
    return " ".join(["Narrowing of the artery is seen again and again."] * 40 + [f"Study {number}."])


def of_the_first_alone(number: int) -> str | None:
    """A train split without any is refused: the tower has no words then."""
    return None if number else short(0)


def folder_of(folder: Path, text_of: TextOf) -> Path:
    """Three studies a split, of one film each, of which no label is known."""
    draw, studies = np.random.default_rng(0), []
    for number in range(9):
        film = draw.integers(0, 255, (8, 32, 32, 1), dtype=np.uint8)
        text = text_of(number)
        reports = [] if text is None else [Report(scope="study", text=text)]
        record, payloads = study_with(f"s{number}", [film], Encoding(), f"p{number}", reports=reports)
        clips = [each.model_copy(update={"side": None, "labels": {"cto": None}}) for each in record.clips]
        studies.append((record.model_copy(update={"clips": clips}), payloads))
    splits = {f"s{number}": SPLITS[number % 3] for number in range(9)}
    return write_folder(folder, studies, splits=splits)


@pytest.mark.parametrize("text_of", [short, long, of_the_first_alone])
def test_every_number_is_finite_and_the_evaluation_says_what_can_be_known(
    tmp_path: Path, text_of: TextOf
) -> None:
    shards, run_dir = folder_of(tmp_path / "shards", text_of), tmp_path / "run"
    words = ("demo/tiny_multitask", f"data.shards={shards}", f"run_dir={run_dir}", *WORDS)
    assert main_on_this_rank("ddp", *words) == 0
    lines = metrics(run_dir)
    assert all(math.isfinite(value) for line in lines for value in line.values())
    num_in_train, num_in_val = (
        sum(text_of(number) is not None for number in range(first, 9, 3)) for first in (0, 1)
    )
    steps = [line for line in lines if "train/loss" in line]
    assert len(steps) == 3
    # one report among one has nothing to be told apart from
    assert [line["train/contrastive/loss"] for line in steps] == [0, 0, 0]
    assert sum(line["train/captioning/loss"] > 0 for line in steps) == num_in_train
    assert all(line["train/masked_modeling/loss"] > 0 and line["train/grad_norm"] > 0 for line in steps)

    (found,) = (line for line in lines if "val/retrieval/num_films" in line)
    assert found["val/retrieval/num_films"] == found["val/captioning/num_films"] == num_in_val
    assert found["val/clinical_findings/num_without_report"] == 3 - num_in_val
    assert found["val/clinical_findings/num_reports_not_understood"] == (3 if text_of is long else 0)
    for name in ("retrieval/text_to_video/R@5", "captioning/bleu_1"):
        assert (f"val/{name}" in found) == (num_in_val > 0)
    for label in ("side", "cto"):
        assert found[f"val/zero_shot/{label}/num_not_assessed"] == 3
        assert f"val/zero_shot/{label}/auroc" not in found
    assert found["val/masked_modeling/num"] == 3
