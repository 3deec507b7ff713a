"""A profiled run: the trace is there and opens, and the run's numbers are those of a run that nobody watched."""

import gzip
import json
from pathlib import Path

import pytest

from deepcoro import profiling
from deepcoro.config import ConfigError, find_config
from deepcoro.profiling import Profile, Profiling
from deepcoro.run_config import load_run_config
from tests.launch import main_on_this_rank, metrics, tiny

WATCHED = ("profile.steps=[2,3]", "tracking.log_films=true", "tracking.use_tensorboard=true")
EVALUATED = (
    "max_steps=4",
    "checkpoint.every_steps=100",
    "evaluate.metrics={zero_shot: false, alignment_uniformity: false}",
)


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same four steps and evaluation, not watched and watched."""
    folder = tmp_path_factory.mktemp("profiling")
    for name, words in (("plain", ()), ("watched", WATCHED)):
        assert main_on_this_rank("ddp", *tiny(tiny_shards, folder / name, *EVALUATED, *words)) == 0
    return {name: folder / name for name in ("plain", "watched")}


def test_the_trace_of_the_window_opens_and_holds_its_steps(runs: dict[str, Path]) -> None:
    (path,) = (runs["watched"] / "profile").iterdir()
    assert path.name == "steps_2_3_rank_0.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    fused_steps = [event for event in events if event.get("name") == "aten::_fused_adamw_"]
    assert fused_steps, "the optimiser's step is in it"
    assert len([event for event in events if event.get("name") == "Optimizer.step#AdamW.step"]) == 2
    assert not (runs["plain"] / "profile").exists()


def test_watching_changes_no_number(runs: dict[str, Path]) -> None:
    kept = [
        [
            {key: value for key, value in line.items() if not key.startswith(("speed/", "memory/"))}
            for line in metrics(run)
        ]
        for run in runs.values()
    ]
    assert kept[0] == kept[1]
    assert any(key.startswith("val/") for line in kept[0] for key in line)


def test_films_are_logged_with_their_reports_when_asked(runs: dict[str, Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs["watched"] / "tensorboard")).Reload()
    pictures = events.Tags()["images"]
    assert "films/0" in pictures
    (words,) = [each.tensor_proto.string_val[0].decode() for each in events.Tensors("films/0/text_summary")]
    assert "report: " in words and "found first: " in words


def test_each_line_tells_what_the_run_has_held(runs: dict[str, Path]) -> None:
    hours = [line["speed/cpu_process_hours"] for line in metrics(runs["plain"]) if "train/loss" in line]
    assert len(hours) == 4 and hours == sorted(hours) and hours[0] > 0


def test_a_window_past_the_last_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"profile.steps is \[3, 9\] and the run has 8 steps"):
        Profiling(Profile(steps=(3, 9)), tmp_path, max_steps=8)
    Profiling(Profile(steps=(3, 8)), tmp_path, max_steps=8)


@pytest.mark.parametrize("steps", ["[3,2]", "[0,2]", "[1]", "4"])
def test_a_window_that_is_none_is_refused(steps: str) -> None:
    with pytest.raises(ConfigError, match="profile"):
        load_run_config(find_config("demo/tiny"), [f"profile.steps={steps}"])


@pytest.mark.parametrize(("ranks", "names"), [("first", []), ("all", ["steps_1_2_rank_1.json.gz"])])
def test_other_ranks_write_theirs_when_all_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: str, names: list[str]
) -> None:
    monkeypatch.setattr(profiling.distributed, "rank", lambda: 1)
    watch = Profiling(Profile(steps=(1, 2), ranks=ranks), tmp_path, max_steps=9)
    watch.before(1)
    watch.before(2)
    watch.close()  # a run that ends within the window
    watch.close()
    assert [path.name for path in tmp_path.glob("profile/*")] == names


def test_a_run_resumed_within_the_window_writes_no_trace(tmp_path: Path) -> None:
    watch = Profiling(Profile(steps=(1, 3)), tmp_path, max_steps=9)
    watch.before(2)
    watch.before(4)
    watch.close()
    assert not (tmp_path / "profile").exists()
