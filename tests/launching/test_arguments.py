"""The predecessor's flags, and what is said about a word that is not understood."""

import pytest

from deepcoro.config import ConfigError
from deepcoro.launching.arguments import read_request


def test_the_predecessors_flags_are_read() -> None:
    words = "--base_config demo/tiny --selected_gpus 0,1 --use_wandb false --run_mode test optim.lr=1e-3"
    request = read_request(words.split())
    assert request.base_config == "demo/tiny" and request.selected_gpus == "0,1"
    assert request.words == ("optim.lr=1e-3", "run_mode=test", "tracking.use_wandb=false")


def test_keys_may_stand_before_between_and_after_flags() -> None:
    request = read_request(["a=1", "--run_mode", "val", "b=2", "--base_config", "demo/tiny", "c=3"])
    assert request.words == ("a=1", "b=2", "c=3", "run_mode=val")


def test_what_is_not_said_is_left_to_the_config() -> None:
    assert read_request([]).words == ()


BAD = {
    "a flag nearly right": ("--selected_gpu 0", "did you mean --selected_gpus?"),
    "a hyper-parameter as a flag": (
        "--lr 3e-4",
        "unknown flag '--lr'; keys of the config are written key=value",
    ),
    "a hyper-parameter as a flag with =": ("--lr=3e-4", "unknown flag '--lr'"),
    "a word without =": ("demo/tiny", "'demo/tiny' has no '='"),
    "another run mode": ("--run_mode tran", "invalid choice: 'tran' (choose from"),
    "neither true nor false": ("--use_wandb yes", "invalid choice: 'yes'"),
    "a flag without its value": ("--base_config", "expected one argument"),
    "a machine that is not there": (
        "--num_machines 2 --machine_rank 2 --main_process_ip a",
        "0 to 1 are allowed",
    ),
    "machines that cannot meet": ("--num_machines 2", "needs --main_process_ip"),
    "restarts of one of several machines": (
        "--num_machines 2 --main_process_ip a --max_restarts 1",
        "started again together, by their scheduler",
    ),
    "a negative count": ("--max_restarts -1", "0 or more"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_word_is_one_line_with_a_remedy(case: str) -> None:
    words, expected = BAD[case]
    with pytest.raises(ConfigError) as refused:
        read_request(words.split())
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_help_teaches_by_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        read_request(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for taught in (
        "--selected_gpus 0,1",
        "--selected_gpus none",
        "optim.lr=3e-4",
        "75 stopped",
        "multi_node.md",
    ):
        assert taught in text
