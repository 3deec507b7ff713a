"""Times, memory and the share of the device's peak."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deepcoro import speed
from deepcoro.speed import DeviceHours, Stopwatch, training_flops_per_clip

CPU = torch.device("cpu")


class OneMatrix(nn.Module):
    """A tower whose arithmetic is known."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(3 * 2 * 4 * 4, 5, bias=False)

    def features(self, video: Tensor, clip_mask: Tensor, clips_per_chunk: int | None) -> Tensor:
        return self.matrix(video.flatten(1))


def test_training_counts_three_times_the_forward() -> None:
    assert training_flops_per_clip(OneMatrix(), frames=2, size_px=4) == 3 * 2 * 96 * 5


def test_the_stopwatch_gives_means_since_the_last_reading() -> None:
    watch = Stopwatch(CPU)
    for _ in range(4):
        with watch.waiting_for_data():
            pass
        watch.step_done(samples=8)
    first = watch.read()
    assert first["speed/samples_per_s"] * first["speed/step_s"] == pytest.approx(8)
    assert 0 <= first["speed/data_wait_s"] < first["speed/step_s"]
    share = first["speed/data_wait_s"] / first["speed/step_s"]
    assert first["speed/data_wait_share"] == pytest.approx(share)
    assert first["memory/peak_gb"] > 0.01
    assert "speed/mfu" not in first  # no CPU has a peak on record


def test_the_share_of_a_known_peak_is_that_of_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "peak_tflops", lambda device: 2.0)
    watch = Stopwatch(CPU, flops_per_sample=1e9)
    watch.step_done(samples=10)
    numbers = watch.read()
    assert numbers["speed/mfu"] == pytest.approx(numbers["speed/samples_per_s"] / 2000)


@pytest.mark.parametrize(("device", "key"), [("cpu", "speed/cpu_process_hours"), ("cuda", "speed/gpu_hours")])
def test_device_hours_add_up_over_the_starts_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, key: str
) -> None:
    history, now = tmp_path / "metrics.jsonl", iter([100.0, 1900.0, 0.0, 3600.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(speed.distributed, "world_size", lambda: 4)
    first = DeviceHours(torch.device(device), history).read()
    assert first == {key: pytest.approx(2.0)}  # four of them for half an hour
    history.write_text(json.dumps(first) + "\n" + json.dumps({"val/score": 1}) + '\n{"speed/gp')
    assert DeviceHours(torch.device(device), history).read() == {key: pytest.approx(6.0)}
