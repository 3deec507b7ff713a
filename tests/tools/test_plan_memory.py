"""tools/plan_memory.py, as a user calls it."""

import pytest

from deepcoro.command_line import main as train
from tools import plan_memory

FEW = ("batch_size=2", "data.fields.report.max_tokens=16", "towers.text.from_scratch.vocabulary_size=200")


def test_it_prints_a_table_and_the_command_that_train_py_understands(capsys: pytest.CaptureFixture) -> None:
    code = plan_memory.main(["demo/tiny", "--gpus", "2", "--gpu_memory_gb", "24", "--markdown", *FEW])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith("| engine | activations | micro-batch 2 | micro-batch 1 |")
    launch, words = out.splitlines()[-1].split(" train.py ")
    assert launch.endswith("multi_gpu_ddp.yaml --num_processes 2")
    assert train([*words.split(), "--show"]) == 0


def test_it_says_in_one_line_what_to_change_where_nothing_fits(capsys: pytest.CaptureFixture) -> None:
    code = plan_memory.main(["demo/tiny", "--gpus", "1", "--gpu_memory_gb", "0.5", *FEW])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 2
    assert error.startswith("plan_memory.py: nothing fits in 0.5 GB a GPU: the least is 1.")


def test_gpus_that_nodes_cannot_share_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert plan_memory.main(["demo/tiny", "--gpus", "9", "--nodes", "2", "--gpu_memory_gb", "24"]) == 2
    assert "every node has the same number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("gpus", "memory", "told"),
    [("one", "24", "whole numbers from 1 up"), ("0", "24", "got '0'"), ("1", "24GB", "GB without the unit"), ("1", "-24", "got '-24'")],
)  # fmt: skip
def test_numbers_that_are_none_are_refused_before_the_model_is_measured(
    gpus: str, memory: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        plan_memory.main(["demo/tiny", f"--gpus={gpus}", f"--gpu_memory_gb={memory}"])
    assert told in capsys.readouterr().err
