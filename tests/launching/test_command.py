"""Which launch file a request takes, on machines that are not here."""

import sys

import pytest
import yaml

from deepcoro.config import ConfigError
from deepcoro.launching.arguments import read_request
from deepcoro.launching.command import Command, chosen_gpus, command_of, default_launch, launch_file


def command(words: str, num_gpus: int, visible: str | None = None) -> Command:
    return command_of(read_request(words.split()), num_gpus, visible)


def launched_file(made: Command) -> str:
    return made.words[made.words.index("--config_file") + 1].split("/")[-1].removesuffix(".yaml")


@pytest.mark.parametrize(
    ("words", "num_gpus", "file", "visible", "processes"),
    [
        ("", 0, "cpu_1", "", None),
        ("", 1, "single_gpu", "0", "1"),
        ("", 8, "multi_gpu_ddp", "0,1,2,3,4,5,6,7", "8"),
        ("--selected_gpus 3", 8, "single_gpu", "3", "1"),
        ("--selected_gpus 0,5", 8, "multi_gpu_ddp", "0,5", "2"),
        ("--selected_gpus none", 8, "cpu_1", "", None),
        ("--selected_gpus none --launch cpu_2_zero3", 8, "cpu_2_zero3", "", None),
        ("--launch multi_gpu_zero3", 4, "multi_gpu_zero3", "0,1,2,3", "4"),
        ("--launch accelerate_configs/multi_gpu_ddp.yaml", 2, "multi_gpu_ddp", "0,1", "2"),
        (
            "--num_machines 3 --main_process_ip a --machine_rank 1",
            8,
            "multi_node_ddp",
            "0,1,2,3,4,5,6,7",
            "24",
        ),
    ],
)
def test_the_launch_file_follows_the_number_of_gpus(
    words: str, num_gpus: int, file: str, visible: str, processes: str | None
) -> None:
    made = command(words, num_gpus)
    assert launched_file(made) == file
    assert made.environment["CUDA_VISIBLE_DEVICES"] == visible
    assert made.words[0] == sys.executable
    said = dict(zip(made.words, made.words[1:], strict=False))
    assert said.get("--num_processes") == processes


def test_numbers_count_within_the_gpus_that_a_scheduler_gave() -> None:
    made = command("--selected_gpus 0,2", 3, "4,5,GPU-0a1b")
    assert made.environment["CUDA_VISIBLE_DEVICES"] == "4,GPU-0a1b"


def test_machines_meet_at_machine_0() -> None:
    made = command("--num_machines 2 --machine_rank 1 --main_process_ip node7 --main_process_port 1234", 8)
    said = dict(zip(made.words, made.words[1:], strict=False))
    assert (said["--machine_rank"], said["--main_process_ip"], said["--main_process_port"]) == (
        "1",
        "node7",
        "1234",
    )


def test_one_machine_takes_any_free_port() -> None:
    made = command("demo=1", 1)
    assert made.words[made.words.index("--main_process_port") + 1] == "0"
    assert made.words[-3:] == ("train.py", "clip/base_config", "demo=1")


BAD = {
    "a GPU that is not there": ("--selected_gpus 0,4", 2, "names [4]; GPUs seen here: 0 to 1"),
    "a GPU where there is none": ("--selected_gpus 0", 0, "--selected_gpus none runs on the CPU"),
    "letters": ("--selected_gpus a", 2, "numbers with commas"),
    "a GPU twice": ("--selected_gpus 1,1", 2, "names a GPU twice"),
    "a launch file nearly right": ("--launch multi_gpu_zero_2", 2, "did you mean 'multi_gpu_zero2'?"),
    "a file for GPUs on a CPU": ("--launch multi_gpu_zero2", 0, "choose --launch cpu_1"),
    "a file for the CPU on GPUs": ("--launch cpu_2_zero2", 2, "add --selected_gpus none"),
    "CPU processes that machines cannot share": (
        "--launch cpu_1 --num_machines 2 --main_process_ip a",
        0,
        "cannot be shared",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_started_is_refused_with_a_remedy(case: str) -> None:
    words, num_gpus, expected = BAD[case]
    with pytest.raises(ConfigError, match="^[^\n]*$") as refused:
        command(words, num_gpus)
    assert expected in str(refused.value)


@pytest.mark.parametrize("machines", [1, 2])
@pytest.mark.parametrize("gpus", [0, 1, 2, 8])
def test_every_default_is_a_shipped_file_for_the_device(gpus: int, machines: int) -> None:
    settings = yaml.safe_load(launch_file(default_launch(gpus, machines)).read_text())
    assert bool(settings.get("use_cpu")) == (gpus == 0)
    assert (settings["num_machines"] > 1) == (machines > 1 and gpus > 0)


def test_all_gpus_are_taken_where_none_is_named() -> None:
    assert chosen_gpus(None, 3) == [0, 1, 2]
