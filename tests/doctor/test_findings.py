"""Every finding, from facts of machines that are not here."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from deepcoro.doctor import films, kernels, machine, ranks, software
from deepcoro.doctor.films import Films
from deepcoro.doctor.finding import Finding, as_json, as_lines, as_table, exit_code
from deepcoro.doctor.kernels import Choice, Kernels
from deepcoro.doctor.machine import Gpu, Machine, Need
from deepcoro.doctor.ranks import Talk
from deepcoro.doctor.software import NEEDED, OPTIONAL, Software

H100 = Gpu("NVIDIA H100", (9, 0), 80.0, 79.0)
NODE = Machine(
    gpus=(H100,) * 8,
    driver="580.1",
    torch_cuda="13.0",
    cores=64,
    memory_gb=900.0,
    shm_gb=400.0,
    disk_gb=5000.0,
    cpu_bfloat16=True,
)
NEED = Need(ranks=8, run_dir=Path("runs/mine"), workers=4, loader_gb=0.5, checkpoints_gb=9.0)
STACK = Software(
    versions=dict.fromkeys((*NEEDED, *OPTIONAL), "1.0") | {"torch": "2.15.0"},
    nccl="2.30",
    compiler="g++",
    nvcc="nvcc",
    has_gpu=True,
)


def one(found: Iterable[Finding], about: str) -> Finding:
    """The finding about a thing, of which there is one, and which helps where it is not good."""
    matching = [each for each in found if each.about == about]
    assert len(matching) == 1, matching
    assert matching[0].level in ("ok", "note") or matching[0].advice
    assert "\n" not in matching[0].found + matching[0].advice
    return matching[0]


def test_a_good_node_has_nothing_to_be_told() -> None:
    told = [*machine.findings(NODE, NEED), *software.findings(STACK), *ranks.findings(Talk("nccl", 8, 300.0))]
    assert {each.level for each in told} == {"ok"}
    assert exit_code(told) == 0


CPU = {"gpus": (), "driver": None, "torch_cuda": None}
MACHINES = {
    "no GPU": (CPU, {}, "GPUs", "note", "cpu_1.yaml"),
    "a CPU build of torch beside a driver": (CPU | {"driver": "580"}, {}, "GPUs", "broken", "CUDA build"),
    "a driver that torch cannot use": ({"gpus": ()}, {}, "GPUs", "broken", "--gpus all"),
    "unequal GPUs": (
        {"gpus": (H100, Gpu("NVIDIA T4", (7, 5), 16.0, 16.0))},
        {},
        "GPUs",
        "slow",
        "--selected_gpus",
    ),
    "a GPU that others use": (
        {"gpus": (H100, replace(H100, free_gb=9.0))},
        {},
        "GPU memory",
        "slow",
        "nvidia-smi",
    ),
    "a GPU without bf16": (
        {"gpus": (Gpu("NVIDIA V100", (7, 0), 32.0, 32.0),)},
        {},
        "bf16",
        "slow",
        "precision=fp32",
    ),
    "a CPU without bf16": (CPU | {"cpu_bfloat16": False}, {}, "bf16", "slow", "precision=fp32"),
    "few cores": ({"cores": 16}, {}, "cores", "slow", "data.num_workers=1 fits"),
    "fewer cores than ranks": ({"cores": 4}, {}, "cores", "slow", "data.num_workers=0 fits"),
    "little memory": ({"memory_gb": 30.0}, {}, "memory", "slow", "--memory"),
    "a container's /dev/shm": ({"shm_gb": 0.06}, {}, "/dev/shm", "broken", "--shm-size"),
    "no /dev/shm": ({"shm_gb": None}, {}, "/dev/shm", "note", "another system"),
    "a full disk": ({"disk_gb": 3.0}, {}, "disk of runs/mine", "broken", "checkpoint.keep"),
    "a folder that cannot be written": (
        {"disk_gb": None},
        {},
        "disk of runs/mine",
        "broken",
        "another run_dir",
    ),
}


@pytest.mark.parametrize("case", MACHINES)
def test_what_a_machine_lacks_is_a_finding_with_a_remedy(case: str) -> None:
    facts, need, about, level, advice = MACHINES[case]
    told = one(machine.findings(replace(NODE, **facts), replace(NEED, **need)), about)
    assert told.level == level and advice in told.advice


def test_where_fp32_is_asked_for_bf16_is_no_matter() -> None:
    told = machine.findings(replace(NODE, **CPU, cpu_bfloat16=False), replace(NEED, bf16=False))
    assert "bf16" not in {each.about for each in told}


def lacking(*names: str, **versions: str) -> dict:
    return {"versions": STACK.versions | dict.fromkeys(names) | versions}


STACKS = {
    "no deepspeed": (lacking("deepspeed", "av"), "packages", "broken", "pip install -c requirements.txt"),
    "an old torch": (lacking(torch="2.9.1"), "packages", "broken", "oldest that is known to work"),
    "torch and torchvision of two builds": (
        lacking(torch="2.15.0+cpu"),
        "packages",
        "slow",
        "different builds",
    ),
    "no triton": (lacking("triton"), "triton", "slow", "pip install triton"),
    "no triton and no GPU": (lacking("triton") | {"has_gpu": False}, "triton", "note", "nothing to do"),
    "no flash-attn": (lacking("flash-attn"), "flash-attn", "note", "nothing needs it"),
    "no NCCL beside GPUs": ({"nccl": None}, "NCCL", "broken", "CUDA build"),
    "no NCCL and no GPU": ({"nccl": None, "has_gpu": False}, "NCCL", "note", ""),
    "no compiler beside GPUs": ({"compiler": None}, "compiler", "broken", "g++"),
    "no compiler and no GPU": ({"compiler": None, "has_gpu": False}, "compiler", "note", "compile=true"),
    "interpreted kernels": ({"switches": {"TRITON_INTERPRET": "1"}}, "TRITON_INTERPRET", "slow", "unset"),
    "kernels that are waited for": (
        {"switches": {"CUDA_LAUNCH_BLOCKING": "1"}},
        "CUDA_LAUNCH_BLOCKING",
        "slow",
        "unset",
    ),
    "accelerate on the CPU": (
        {"switches": {"ACCELERATE_USE_CPU": "true"}},
        "ACCELERATE_USE_CPU",
        "slow",
        "unset",
    ),
    "direct copies forbidden": ({"switches": {"NCCL_P2P_DISABLE": "1"}}, "NCCL_P2P_DISABLE", "slow", "unset"),
}


@pytest.mark.parametrize("case", STACKS)
def test_what_is_not_installed_is_a_finding_with_a_remedy(case: str) -> None:
    facts, about, level, advice = STACKS[case]
    told = one(software.findings(replace(STACK, **facts)), about)
    assert told.level == level and advice in told.advice


def test_switches_that_are_off_are_not_mentioned() -> None:
    told = list(software.findings(replace(STACK, switches={"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1"})))
    assert not {"TRITON_INTERPRET", "OMP_NUM_THREADS"} & {each.about for each in told}


def test_without_packages_nothing_else_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert software.missing() == []
    monkeypatch.setattr(software, "_version", lambda name: None if name == "psutil" else "1.0")
    (told,) = software.missing()
    assert told.level == "broken" and "psutil" in told.found


TALKS = {
    "GPUs that cannot talk": (
        Talk("nccl", 8, None, "no answer within 120 s"),
        "broken",
        "NCCL_P2P_LEVEL=LOC",
    ),
    "processes that cannot talk": (
        Talk("gloo", 2, None, "Connection refused"),
        "broken",
        "GLOO_SOCKET_IFNAME",
    ),
    "GPUs that talk through the host": (Talk("nccl", 4, 4.0), "slow", "multi_gpu_zero1"),
    "processes of a CPU": (Talk("gloo", 2, 1.0), "ok", ""),
}


@pytest.mark.parametrize("case", TALKS)
def test_ranks_that_do_not_talk_well_are_a_finding(case: str) -> None:
    talk, level, advice = TALKS[case]
    told = one(ranks.findings(talk), "ranks")
    assert told.level == level and advice in told.advice and talk.error in told.found


READ = Films(100.0, 2, wanted_clips_per_s=400.0, wanted_by="an H200")
READINGS = {
    "fast enough": (replace(READ, wanted_clips_per_s=90.0), "shard speed", "ok", ""),
    "too few workers": (READ, "shard speed", "slow", "data.num_workers=8"),
    "more workers than cores": (replace(READ, clips_per_s=10.0), "shard speed", "slow", "shards of 256 px"),
    "workers that shared cores": (replace(READ, workers=80), "shard speed", "slow", "160 workers a rank"),
    "nobody knows what is wanted": (replace(READ, wanted_clips_per_s=None), "shard speed", "ok", ""),
    "no shards": (Films(None, 2, "nowhere holds no manifest.json"), "shards", "broken", "--verify"),
    "damaged samples": (replace(READ, bad=3), "shards", "broken", "--verify"),
}


@pytest.mark.parametrize("case", READINGS)
def test_shards_that_are_read_too_slowly_are_a_finding(case: str) -> None:
    read, about, level, advice = READINGS[case]
    told = one(films.findings(read, ranks=4, cores=40), about)
    assert told.level == level and advice in told.advice


CHOSEN = Choice(
    "8x56x56 queries, 8x7x7 keys", "tiled", 160, ("cudnn: it runs on CUDA only", "flash_attn_2: absent")
)


def test_a_kernel_is_named_with_its_blocks_and_why_not_another() -> None:
    told = one(
        kernels.findings(Kernels("video_mvit", "auto", (CHOSEN, replace(CHOSEN, shape="8x7x7")))), "attention"
    )
    assert told.level == "ok"
    assert told.found == (
        "tiled for 8x56x56 queries, 8x7x7 keys (width 160), 8x7x7 (width 160); not flash_attn_2: absent"
    )


def test_a_kernel_asked_for_that_cannot_serve_is_slow() -> None:
    asked = Kernels("video_mvit", "cudnn", (CHOSEN,), named=("cudnn",))
    told = one(kernels.findings(asked), "attention")
    assert (
        told.level == "slow"
        and "cudnn was asked for and cannot serve: cudnn: it runs on CUDA only" in told.found
    )


def test_the_whole_map_is_slow_and_other_towers_choose_themselves() -> None:
    plain = Kernels("video_mvit", "plain", (replace(CHOSEN, kernel="plain"),))
    assert one(kernels.findings(plain), "attention").level == "slow"
    assert one(kernels.findings(Kernels("video_timm", "")), "attention").level == "note"


def test_findings_are_told_in_three_ways() -> None:
    told = [Finding("GPUs", "ok", "8"), Finding("disk", "broken", "full", "free some")]
    assert exit_code(told) == 1
    assert json.loads(as_json(told))[1] == {
        "about": "disk",
        "level": "broken",
        "found": "full",
        "advice": "free some",
    }
    assert as_lines(told).splitlines() == ["ok      GPUs: 8", "broken  disk: full", "        -> free some"]
    assert as_table(told).row_count == 2
