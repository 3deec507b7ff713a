import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.mvit import compilation
from deepcoro.video_benchmark import BASES, CONTENDERS, Contender, DevicePeaks, Result, Task, activation_mb
from tools.benchmark_video import main, parse_arguments

SMALL = Task(batch=2, frames=2, size_px=64, device="cpu")
WORDS = ["--batch", "1", "--frames", "2", "--size_px", "32", "--repeats", "1", "--precision", "fp32"]


@pytest.mark.slow
def test_a_small_run_prints_a_row_for_each_contender_relative_to_the_first(capsys):
    main([*WORDS, "--contenders", "torchvision", "deepcoro+blocks"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| fp32")]
    cells = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows]
    assert [row[0] for row in cells] == ["torchvision", "deepcoro+blocks"]
    assert (cells[0][3], cells[0][5]) == ("1.00x", "1.00x")
    assert all(float(row[4]) > 0 for row in cells)


def test_a_row_says_speed_memory_and_shares_of_the_peaks():
    first, second = Result("torchvision", [4.0, 4.0, 9.0], 800.0), Result("deepcoro", [2.0, 1.0, 3.0], 200.0)
    task = Task(batch=2, frames=16, size_px=224, device="cpu")
    row = second.row(first, task, "fp32", DevicePeaks(tflops=1.0, gb_per_s=10.0))
    # 2 clips x 3 x 128.4 GFLOP in 2 s
    assert row.startswith("| fp32 | deepcoro | 2.000 (1.000) | 1 | 2.00x | 200 | 0.25x | 0.385 | 39% |")


def test_both_models_are_the_same_function_of_the_same_weights():
    theirs, ours = (Contender.named(name).step(SMALL).model.eval() for name in BASES)
    ours.load_kinetics_state_dict(theirs.state_dict())
    video = torch.randn(1, 3, 2, 64, 64)
    torch.testing.assert_close(ours(video), theirs(video), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [each for each in CONTENDERS if "compiled" not in each])
def test_every_contender_makes_its_step(name):
    contender = Contender.named(name)
    step = contender.step(SMALL)
    assert step.run("fp32") > 0
    assert all(parameter.grad is not None for parameter in step.model.parameters())
    assert (step.units is None) is ("sparse" not in name)


@pytest.mark.slow
@pytest.mark.parametrize("base", BASES)
def test_a_compiled_contender_makes_its_step(monkeypatch, base):
    # the C++ of torch.compile takes minutes on a CPU: here its graphs run as they are
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    step = Contender.named(f"{base}+compiled").step(SMALL)
    assert any(module._compiled_call_impl is not None for module in step.model.modules())
    assert step.run("fp32") > 0


def test_options_are_joined_and_unknown_ones_refused():
    contender = Contender.named("deepcoro+blocks+stream16+sparse75")
    settings = contender.step(SMALL).model.settings
    assert (settings.activation_checkpointing, settings.residual) == ("blocks", "bf16")
    assert contender.visible == 0.25
    for wrong in ("timm", "deepcoro+fast", "torchvision+blocks"):
        with pytest.raises(ConfigError, match="contender is .*allowed: .*deepcoro"):
            Contender.named(wrong)


def test_memory_is_the_peak_of_a_step():
    large = Task(batch=1, frames=4, size_px=112, device="cpu")
    assert activation_mb("deepcoro", large, "fp32") > 100  # gradients of the weights alone are 138 MB


def test_a_gpu_gets_a_larger_batch_and_bf16_by_default():
    cpu, cuda = parse_arguments([]), parse_arguments(["--device", "cuda"])
    assert (cpu.batch, cpu.precision) == (2, ["fp32", "bf16"])
    assert (cuda.batch, cuda.precision) == (32, ["bf16"])
