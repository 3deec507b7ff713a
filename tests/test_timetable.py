"""Schedules as functions of the step, and a model put into a phase."""

import pytest
import torch
from torch import nn

from deepcoro import config
from deepcoro.config import ConfigError
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.timetable import Phase, Timetable, enter_phase

TINY = config.SHIPPED / "demo" / "tiny.yaml"
SECOND = "objectives.second={type: contrastive}"


def tiny(*words: str) -> RunConfig:
    return load_run_config(TINY, [SECOND, *words])


def refusal(*words: str, max_steps: int = 100) -> str:
    with pytest.raises(ConfigError) as caught:
        Timetable(tiny(*words), max_steps)
    return str(caught.value)


def test_without_schedules_all_objectives_train_in_one_phase() -> None:
    table = Timetable(tiny("loss_weights.second=2"), 100)
    assert table.phases == [Phase(0, ("contrastive", "second"), ())]
    assert table.loss_weights(0) == table.loss_weights(99) == {"contrastive": 1.0, "second": 2.0}
    assert not any(table.begins_at(step) for step in range(101))
    assert table.warmups(50) == {}


@pytest.mark.parametrize(
    "words", ["{start_fraction: 0.8, end_fraction: 0.9}", "{start_step: 80, end_step: 90}"]
)
def test_an_objective_takes_part_from_its_start_until_before_its_end(words: str) -> None:
    table = Timetable(tiny(f"schedules.second={words}"), 100)
    assert [step for step in range(100) if "second" in table.loss_weights(step)] == list(range(80, 90))
    assert [step for step in range(101) if table.begins_at(step)] == [80, 90]
    assert all("contrastive" in table.loss_weights(step) for step in range(100))


def test_a_fraction_moves_with_the_length_of_the_run_and_a_step_does_not() -> None:
    words = "schedules.second={start_fraction: 0.5, end_step: 60}"
    starts = [[phase.start for phase in Timetable(tiny(words), steps).phases] for steps in (80, 100)]
    assert starts == [[0, 40, 60], [0, 50, 60]]


def test_a_loss_ramps_up_or_down_and_a_learning_rate_warms_up_from_the_start_on() -> None:
    words = "schedules.second={start_step: 10, ramp_steps: 4, warmup_fraction: 0.02}"
    table = Timetable(tiny(words, "loss_weights.second=0.5"), 100)
    assert [table.loss_weights(step)["second"] for step in range(10, 15)] == [0.125, 0.25, 0.375, 0.5, 0.5]
    assert [table.warmups(step)["second"] for step in range(9, 13)] == [0.0, 0.5, 1.0, 1.0]
    falling = Timetable(tiny("schedules.second={ramp_steps: 4, ramp_from: 3}"), 100)
    assert [falling.loss_weights(step)["second"] for step in range(5)] == [2.5, 2.0, 1.5, 1.0, 1.0]


def test_the_towers_freeze_by_the_phase_and_then_by_their_own_ratio() -> None:
    words = (
        "freeze=[{until_fraction: 0.1, video: 1.0, text: 1.0}, {until_step: 30, text: 0.5}]",
        "towers.video.video_freeze_ratio=0.25",
    )
    table = Timetable(tiny(*words), 100)
    assert [(phase.start, dict(phase.frozen)) for phase in table.phases] == [
        (0, {"video": 1.0, "text": 1.0}),
        (10, {"video": 0.25, "text": 0.5}),
        (30, {"video": 0.25, "text": 0.0}),
    ]


def test_the_past_is_what_lies_before_a_step_and_the_future_may_change() -> None:
    early, late = (
        Timetable(tiny(f"schedules.second={{start_step: 20, end_step: {end}}}"), 100) for end in (50, 70)
    )
    assert early.history(20) == [[0, ["contrastive"], []]]
    assert early.history(50) == late.history(50)
    assert early.history(51) != late.history(51)


def test_a_schedule_that_cannot_be_kept_says_why() -> None:
    assert "starts at step 90 and ends at step 50" in refusal(
        "schedules.second={start_step: 90, end_step: 50}"
    )
    assert "starts at step 100 and ends at step 100" in refusal("schedules.second={start_step: 100}")
    both = "schedules={second: {start_step: 5}, contrastive: {start_step: 10}}"
    assert "no objective active at step 0" in refusal(both)
    assert "end at steps [30, 20]" in refusal("freeze=[{until_step: 30}, {until_fraction: 0.2}]")
    assert "start_step and start_fraction" in refusal("schedules.second={start_step: 5, start_fraction: 0.5}")
    assert "needs until_step or until_fraction" in refusal("freeze=[{video: 1.0}]")
    assert "schedules names ['third']" in refusal("schedules.third={start_step: 5}")
    assert "choose other names" in refusal("objectives.text={type: contrastive}")


class Tower(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2), nn.Linear(2, 2))

    def freeze(self, ratio: float) -> None:
        self.requires_grad_(True)
        for part in list(self)[: round(ratio * len(self))]:
            part.requires_grad_(False)


class Head(nn.Linear):
    def __init__(self, *reads: str) -> None:
        super().__init__(2, 2, bias=False)
        self.reads = frozenset(reads)
        self.teacher = nn.Parameter(torch.zeros(2), requires_grad=False)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"video": Tower(), "text": Tower()})
        self.pooler = nn.Linear(2, 2, bias=False)
        self.objectives = nn.ModuleDict({"contrastive": Head("study", "text"), "second": Head("visible")})


def ages(step: int, *words: str) -> dict[str, int]:
    """Since when each module trains after `step` steps."""
    since = enter_phase(Model(), Timetable(tiny(*words), 100), step)
    assert not [name for name in since if name.endswith("teacher")]
    return {name.removesuffix(".weight"): start for name, start in since.items() if name.endswith("weight")}


EVERYTHING = {
    **{f"towers.{tower}.{layer}": 0 for tower in ("video", "text") for layer in (0, 1)},
    **{"pooler": 0, "objectives.contrastive": 0, "objectives.second": 0},
}


def test_everything_that_can_train_trains_where_nothing_is_scheduled() -> None:
    assert ages(50) == EVERYTHING


def test_an_objective_that_takes_no_part_does_not_train_and_counts_its_steps_from_its_start() -> None:
    words = "schedules.second={start_step: 20, end_step: 50}"
    rest = {name: age for name, age in EVERYTHING.items() if name != "objectives.second"}
    assert ages(19, words) == ages(50, words) == rest
    assert ages(20, words) == ages(49, words) == EVERYTHING | {"objectives.second": 20}


def test_what_no_active_objective_reads_does_not_train() -> None:
    words = "schedules.contrastive={start_step: 30}"
    assert set(ages(0, words)) == {"towers.video.0", "towers.video.1", "objectives.second"}
    late = {name: 30 for name in EVERYTHING if name.startswith(("towers.text", "pooler", "objectives.con"))}
    assert ages(30, words) == EVERYTHING | late


def test_a_part_that_thaws_counts_from_its_last_thaw() -> None:
    words = "freeze=[{until_step: 10, video: 0.5}, {until_step: 20}, {until_step: 30, video: 0.5}]"
    found = [ages(step, words).get("towers.video.0") for step in (5, 15, 25, 35)]
    assert found == [None, 10, None, 30]
    assert ages(35, words)["towers.video.1"] == 0
