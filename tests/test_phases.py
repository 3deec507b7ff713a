"""What trains changes on the way (objectives begin and end, towers thaw): the training is that of a loop written by hand, under every
engine, and stopping anywhere changes nothing.
"""

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from deepcoro import train
from deepcoro.build import build_model, build_parts
from deepcoro.checkpoint import Checkpoint
from deepcoro.config import find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import start_accelerator
from deepcoro.model import VideoTextModel
from deepcoro.optim import lr_factor, parameter_groups
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.saving import Saver
from deepcoro.step import train_step
from tests.launch import SILENT, STEADY, as_launched, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

ENGINES = ("ddp", "zero2", "zero3_whole")
STEPS = 6
# Phases begin at steps 2, 3, 4 and 5.
WORDS = (
    *(*STEADY, *SILENT, f"max_steps={STEPS}", "checkpoint.every_steps=1", "checkpoint.keep=9"),
    "objectives.second={type: contrastive, embed_dim: 16}",
    "schedules.second={start_step: 3, end_step: 5, warmup_steps: 2, ramp_steps: 2}",
    "freeze=[{until_step: 2, video: 1.0, text: 1.0}, {until_step: 4, video: 0.5}]",
    "loss_weights.second=0.5",
)


def frozen_at(step: int) -> tuple[float, float]:
    """Of the video and the text tower."""
    return (1.0, 1.0) if step < 2 else (0.5, 0.0) if step < 4 else (0.0, 0.0)


def second_weight(step: int) -> float | None:
    return {3: 0.25, 4: 0.5}.get(step)


def second_warmup(step: int) -> float:
    return {3: 0.5, 4: 1.0}[step]


class ByHand:
    """One process, plain torch: AdamW is told of a parameter when it begins to train and forgets it when it ends."""

    def __init__(self, config: RunConfig):
        self.config = config
        parts = build_parts(config, make_tokenizer=True)
        units = parts.shards.units("train", False, 1)
        self.batches = iter(
            TrainingStream(parts.shards, units, parts.fields, Plan(Shuffled(units.shard, 0), 8))
        )
        self.model: VideoTextModel = build_model(config, parts)
        name_of = {id(parameter): name for name, parameter in self.model.named_parameters()}
        groups = parameter_groups(self.model, config.optim)
        self.decay = {
            name_of[id(each)]: group["weight_decay"] for group in groups for each in group["params"]
        }
        self.optimizers: dict[str, torch.optim.AdamW] = {}
        self.losses = {}

    def step(self, step: int) -> None:
        self._let_train(step)
        factor = lr_factor(step, STEPS, self.config.optim)
        for name, optimizer in self.optimizers.items():
            own = second_warmup(step) if name.startswith("objectives.second.") else 1.0
            optimizer.param_groups[0]["lr"] = self.config.optim.lr * factor * own
            optimizer.zero_grad()
        batch, weight = next(self.batches), second_weight(step)
        results = self.model.train()(batch, active=["contrastive"] + (["second"] if weight else []))
        rows = int((batch["report_id"] >= 0).sum())
        loss = results["contrastive"]["sum"] / rows
        if weight:
            loss = loss + weight * results["second"]["sum"] / rows
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.step()
        self.losses[step + 1] = loss.item()

    def _let_train(self, step: int) -> None:
        video, text = frozen_at(step)
        self.model.towers["video"].freeze(video)
        self.model.towers["text"].freeze(text)
        self.model.objectives["second"].requires_grad_(second_weight(step) is not None)
        trains = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.optimizers = {
            name: self.optimizers.get(name) or self._adamw(name, each) for name, each in trains.items()
        }

    def _adamw(self, name: str, parameter: torch.nn.Parameter) -> torch.optim.AdamW:
        optim = self.config.optim
        return torch.optim.AdamW([parameter], betas=optim.betas, eps=optim.eps, weight_decay=self.decay[name])


@pytest.fixture(scope="module")
def by_hand(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ByHand]]:
    name, *overrides = tiny(tiny_shards, tmp_path_factory.mktemp("hand"), *WORDS)
    hand = ByHand(load_run_config(find_config(name), overrides))
    for step in range(STEPS):
        hand.step(step)
    return hand


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phases")
    for engine in ENGINES:
        words = tiny(tiny_shards, folder / engine, *WORDS)
        assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    words = tiny(tiny_shards, folder / "alone", *WORDS, "batch_size=8")
    assert main_on_this_rank("ddp", *words) == 0
    return folder


def at_step(run_dir: Path, step: int) -> Checkpoint:
    return Checkpoint(run_dir / "checkpoints" / f"step_{step}")


@pytest.mark.parametrize("engine", [*ENGINES, "alone"])
def test_a_run_of_several_phases_is_the_loop_by_hand(runs: Path, by_hand: ByHand, engine: str) -> None:
    assert losses(runs / engine) == pytest.approx(by_hand.losses, rel=1e-5)
    last = at_step(runs / engine, STEPS)
    torch.testing.assert_close(
        last.weights(),
        {name: value.detach() for name, value in by_hand.model.state_dict().items()},
        rtol=1e-4,
        atol=1e-5,
    )
    moments = {
        f"{name}/{key}": optimizer.state_dict()["state"][0][key]
        for name, optimizer in by_hand.optimizers.items()
        for key in ("exp_avg", "exp_avg_sq")
    }
    torch.testing.assert_close(last.moments(), moments, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_train_stays_and_what_begins_to_moves_at_once(runs: Path, engine: str) -> None:
    weights = [at_step(runs / engine, step).weights() for step in range(1, STEPS + 1)]
    moved = [
        {name for name in weights[0] if not torch.equal(before[name], after[name])}
        for before, after in zip(weights, weights[1:], strict=False)
    ]  # moved[0]: by the second step

    def begins(prefix: str) -> list[bool]:
        return [any(name.startswith(prefix) for name in names) for names in moved]

    assert begins("towers.text.") == [False, True, True, True, True]
    assert begins("towers.video.blocks.") == [False, True, True, True, True]
    assert begins("towers.video.conv_proj.") == [False, False, False, True, True]
    assert begins("objectives.second.") == [False, False, True, True, False]
    assert begins("objectives.contrastive.") == [True] * 5


@pytest.mark.parametrize(
    ("engine", "step"),
    [
        ("alone", 2),
        ("zero2", 3),
        *(pytest.param("alone", step, marks=pytest.mark.slow) for step in range(1, STEPS) if step != 2),
        pytest.param("zero3_whole", 4, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_before_at_or_after_a_boundary_goes_on_as_if_nothing_had_been(
    tiny_shards: Path, two_ranks: Ranks, runs: Path, tmp_path: Path, engine: str, step: int
) -> None:
    shutil.copytree(runs / engine, tmp_path / "run")
    for later in range(step + 1, STEPS + 1):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step_{later}")
    words = tiny(tiny_shards, tmp_path / "run", *WORDS)
    if engine == "alone":
        assert main_on_this_rank("ddp", *words, "batch_size=8") == 0
    else:
        assert two_ranks.run(main_on_rank, engine, *words) == [0, 0]
    assert losses(tmp_path / "run") == losses(runs / engine)
    for name in ("weights", "moments"):
        resumed, whole = (getattr(at_step(each, STEPS), name)() for each in (tmp_path / "run", runs / engine))
        torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def old_model_is_gone(rank: int, engine: str, shards: Path, run_dir: Path) -> bool:
    """Whether nothing holds the model of one phase once the next one has begun."""
    name, *overrides = tiny(shards, run_dir, *WORDS)
    config = load_run_config(find_config(name), overrides)
    with as_launched(engine):
        training = train._prepare(config, start_accelerator(config))
        batches = iter(training.stream)
        for step in range(2):
            weights = training.timetable.loss_weights(step)
            train_step(training.engine, [next(batches)], step, train._lr(training), weights)
            training.progress.step += 1
        old = weakref.ref(training.engine.model)
        with Saver(config) as saver:
            train._save(training, saver, is_better=False)
        train._enter_next_phase(training)
        return old() is None and training.engine.model is not None


@pytest.mark.parametrize("engine", ["ddp", pytest.param("zero2", marks=pytest.mark.slow)])
def test_no_memory_of_a_phase_outlives_it(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    assert two_ranks.run(old_model_is_gone, engine, tiny_shards, tmp_path) == [True, True]


def test_a_resumed_run_may_not_rewrite_its_past(
    tiny_shards: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(runs / "alone", tmp_path / "run")
    words = tiny(tiny_shards, tmp_path / "run", *WORDS, "batch_size=8", "schedules.second.start_step=2")
    assert main_on_this_rank("ddp", *words) == 2
    message = capsys.readouterr().err
    assert "until step_6 the run's phases" in message
    assert "[3, ['contrastive', 'second'], [['video', 0.5], ['text', 0.0]]]" in message


def test_the_log_says_what_takes_part_with_which_weight_and_learning_rate(runs: Path) -> None:
    lines = [line for line in metrics(runs / "ddp") if "train/loss" in line]
    assert [line["loss_weight/second"] for line in lines] == [0, 0, 0, 0.25, 0.5, 0]
    assert ["train/second/loss" in line for line in lines] == [False] * 3 + [True] * 2 + [False]
    factors = [line["lr/second"] / line["lr/default"] for line in lines]
    assert factors == pytest.approx([0, 0, 0, 0.5, 1, 0])
