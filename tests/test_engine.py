"""DDP and every ZeRO stage on two ranks, one process, and a loop written by hand: the same training."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deepcoro import checkpoint, train
from deepcoro.build import build_model, build_parts
from deepcoro.config import ConfigError, find_config
from deepcoro.data.order import Shuffled
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.engine import Engine, _fill_deepspeed_config, start_accelerator
from deepcoro.model import to_device
from deepcoro.optim import build_optimizer, lr_of_groups
from deepcoro.run_config import RunConfig, load_run_config
from deepcoro.step import train_step
from tests.launch import SILENT, STEADY, as_launched, losses, main_on_rank, main_on_this_rank, metrics, tiny
from tests.ranks import Ranks

ENGINES = ("zero1", "zero2", "zero3_whole")
LONG = tuple(
    pytest.param(engine, marks=pytest.mark.slow)
    for engine in ("zero0", "zero2_offload", "zero3", "zero3_offload")
)
ACCUMULATION = ("batch_size=2", "gradient_accumulation_steps=2")
OWN_NEGATIVES = "gradient_cache=false"


def run_config(shards: Path, run_dir: Path, *words: str) -> RunConfig:
    name, *overrides = tiny(shards, run_dir, *STEADY, *SILENT, *words)
    return load_run_config(find_config(name), overrides)


def by_hand(config: RunConfig) -> dict[int, float]:
    """The training curve of one process, from the definition: targets of a window are counted, its shares are summed."""
    parts = build_parts(config, make_tokenizer=True)
    units = parts.shards.units("train", False, 1)
    plan = Plan(Shuffled(units.shard, config.seed), config.batch_size, config.gradient_accumulation_steps)
    batches = iter(TrainingStream(parts.shards, units, parts.fields, plan))
    model = build_model(config, parts).train()
    optimizer = build_optimizer(model, config.optim)
    curve = {}
    for step in range(config.max_steps):
        window = [next(batches) for _ in range(config.gradient_accumulation_steps)]
        targets = sum(int((batch["report_id"] >= 0).sum()) for batch in window)
        lr = lr_of_groups(step, config.max_steps, config.optim, optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = lr[group["name"]]
        loss = sum(model(batch, task="losses")["contrastive"]["sum"] for batch in window) / targets
        optimizer.zero_grad()
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.max_grad_norm)
        optimizer.step()
        curve[step + 1] = loss.item()
    return curve


class Runs:
    """Six steps under an engine, or four of two micro-steps, trained when first asked for."""

    def __init__(self, shards: Path, ranks: Ranks, folder: Path) -> None:
        self._shards, self._ranks, self._folder = shards, ranks, folder

    def six_steps(self, engine: str) -> Path:
        return self._trained(engine, self._folder / engine, "max_steps=6")

    def accumulated(self, engine: str) -> Path:
        return self._trained(engine, self._folder / f"{engine}_2", "max_steps=4", *ACCUMULATION)

    def _trained(self, engine: str, run_dir: Path, *words: str) -> Path:
        if not run_dir.exists():
            given = tiny(self._shards, run_dir, *STEADY, *SILENT, *words)
            assert self._ranks.run(main_on_rank, engine, *given) == [0, 0]
        return run_dir


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, two_ranks: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tiny_shards, two_ranks, tmp_path_factory.mktemp("engine"))


@pytest.mark.parametrize("engine", [*ENGINES, *LONG])
def test_every_zero_stage_trains_as_ddp_does(runs: Runs, engine: str) -> None:
    both = [runs.six_steps(name) for name in (engine, "ddp")]
    assert losses(both[0]) == pytest.approx(losses(both[1]), rel=1e-5)
    if engine != "zero0":  # which tells no norm
        norms = [[line["train/grad_norm"] for line in metrics(run_dir)] for run_dir in both]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    weights = [checkpoint.Checkpoint(run_dir / "checkpoints" / "step_6").weights() for run_dir in both]
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_two_ranks_train_as_one_process_with_the_whole_batch(
    runs: Runs, tiny_shards: Path, tmp_path: Path
) -> None:
    words = tiny(tiny_shards, tmp_path, *STEADY, *SILENT, "max_steps=6", "batch_size=8")
    assert main_on_this_rank("ddp", *words) == 0
    assert losses(tmp_path) == pytest.approx(losses(runs.six_steps("ddp")), rel=1e-5)


@pytest.mark.parametrize("engine", ["zero2", "zero3_whole"])
def test_the_contrastive_loss_in_a_ring_trains_as_the_dense_one(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    for name, form in (("ddp", "dense"), (engine, "ring")):
        words = (f"objectives.contrastive.form={form}", "objectives.contrastive.tile=2", "max_steps=3")
        words = tiny(tiny_shards, tmp_path / form, *STEADY, *SILENT, *words)
        assert two_ranks.run(main_on_rank, name, *words) == [0, 0]
    assert losses(tmp_path / "ring") == pytest.approx(losses(tmp_path / "dense"), rel=1e-5)


@pytest.mark.parametrize("engine", ["zero2", "zero3_whole"])
def test_every_zero_stage_accumulates_as_ddp_does(runs: Runs, engine: str) -> None:
    assert losses(runs.accumulated(engine)) == pytest.approx(losses(runs.accumulated("ddp")), rel=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ("batch_size=4",),
        (*ACCUMULATION, OWN_NEGATIVES),
        ("batch_size=3", "gradient_accumulation_steps=3", OWN_NEGATIVES),
    ],
)
def test_one_process_trains_as_a_loop_by_hand(
    tiny_shards: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    config = run_config(tiny_shards, tmp_path / "hand", "max_steps=4", *words)
    run = tiny(tiny_shards, tmp_path / "run", *STEADY, *SILENT, "max_steps=4", *words)
    assert main_on_this_rank("ddp", *run) == 0
    assert losses(tmp_path / "run") == pytest.approx(by_hand(config), rel=1e-5)


def engine_step(training: train.Run, window: list) -> None:
    engine, step = training.engine, training.progress.step
    lr = lr_of_groups(step, training.max_steps, training.config.optim, engine.optimizer.param_groups)
    train_step(engine, window, step, lr, training.timetable.loss_weights(step))
    training.progress.step += 1


def features_of_both(rank: int, engine: str, shards: Path, run_dir: Path) -> dict[str, Any]:
    """A batch through the trained module and through the plain model, after two steps."""
    config = run_config(shards, run_dir)
    with as_launched(engine):
        training = train._prepare(config, start_accelerator(config))
        batches = iter(training.stream)
        for _ in range(2):
            engine_step(training, [next(batches)])
        plain = training.engine.plain_model(lambda: build_model(config, training.parts)).eval()
        training.engine.wrapped.eval()
        batch = to_device(next(batches), training.engine.device)
        with torch.no_grad():
            both = [model(batch, task="features") for model in (training.engine.wrapped, plain)]
    return {"both": both, "is_another": plain is not training.engine.model}


@pytest.mark.parametrize("engine", ["zero2", "zero3_whole"])
def test_the_plain_model_embeds_as_the_trained_one(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path, engine: str
) -> None:
    answers = two_ranks.run(features_of_both, engine, tiny_shards, tmp_path)
    for answer in answers:
        trained, plain = answer["both"]
        torch.testing.assert_close(plain, trained, rtol=1e-6, atol=1e-6)
        assert answer["is_another"] == (engine != "zero2")
    videos = [answer["both"][0]["video"] for answer in answers]
    assert not torch.allclose(*videos), "each rank embedded its own rows"


def test_moments_survive_a_round_trip_under_zero_3(
    tiny_shards: Path, two_ranks: Ranks, tmp_path: Path
) -> None:
    for same in two_ranks.run(moments_round_trip, tiny_shards, tmp_path):
        assert same


def moments_round_trip(rank: int, shards: Path, run_dir: Path) -> bool:
    config = run_config(shards, run_dir)
    with as_launched("zero3_whole"):
        engine: Engine = train._prepare(config, start_accelerator(config)).engine
        generator = torch.Generator().manual_seed(0)
        given = {
            f"{name}/{key}": torch.rand(_whole_shape(parameter), generator=generator)
            for name, parameter in engine.model.named_parameters()
            if parameter.requires_grad
            for key in ("exp_avg", "exp_avg_sq")
        }
        engine.set_moments(given, 5, dict.fromkeys(dict(engine.model.named_parameters()), 0))
        read = engine.full_moments()
    if rank:
        return read == {}
    return read.keys() == given.keys() and all(torch.equal(read[name], given[name]) for name in given)


def _whole_shape(parameter: torch.nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def test_a_launcher_and_a_group_that_disagree_are_refused(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deepcoro.engine.distributed.world_size", lambda: 2)
    with (
        as_launched("ddp"),
        pytest.raises(ConfigError, match="accelerate sees 1 processes, torch.distributed 2"),
    ):
        start_accelerator(run_config(tiny_shards, tmp_path))


def test_the_run_config_owns_batch_accumulation_and_clipping(tiny_shards: Path, tmp_path: Path) -> None:
    config = run_config(tiny_shards, tmp_path, "gradient_accumulation_steps=3", "optim.max_grad_norm=0.5")
    filled = {"gradient_clipping": "auto", "train_micro_batch_size_per_gpu": 4}
    _fill_deepspeed_config(filled, config)
    assert filled == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 0.5,
    }
    with pytest.raises(ConfigError, match='gradient_accumulation_steps=8, the run config 3; write "auto"'):
        _fill_deepspeed_config({"gradient_accumulation_steps": 8}, config)


@pytest.mark.parametrize("enabled", [True, "auto"])
def test_zero_1_with_bf16_weights_and_fp32_accumulation_is_refused(
    tiny_shards: Path, tmp_path: Path, enabled: bool | str
) -> None:
    given = {"zero_optimization": {"stage": 1}, "bf16": {"enabled": enabled}}
    _fill_deepspeed_config(dict(given), run_config(tiny_shards, tmp_path))
    given["data_types"] = {"grad_accum_dtype": "fp32"}
    with pytest.raises(ConfigError, match="use stage 2 or 3"):
        _fill_deepspeed_config(given, run_config(tiny_shards, tmp_path))
