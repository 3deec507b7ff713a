"""The verb `train`: build, loop, save, evaluate. It knows no paradigm."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from deepcoro import atomic, checkpoint, distributed, evaluate
from deepcoro.build import Parts, build_model, build_parts
from deepcoro.config import ConfigError, DataError, dump, show
from deepcoro.data.damage import Damage
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.data.training_order import training_order
from deepcoro.engine import Engine, start_accelerator
from deepcoro.fields.report import padded_token_fraction
from deepcoro.frozen_films import read_films_from_disk
from deepcoro.frozen_texts import read_texts_from_disk
from deepcoro.model import Batch, num_parameters
from deepcoro.optim import build_optimizer, lr_of_groups, lr_of_places
from deepcoro.positives_page import write_positives
from deepcoro.preemption import EXIT_CODE, Preemption
from deepcoro.run_config import RunConfig, keys_changed_since
from deepcoro.run_pages import write_pages
from deepcoro.run_record import note_start
from deepcoro.speed import Stopwatch, peak_tflops, training_flops_per_clip
from deepcoro.step import Record, train_step
from deepcoro.timetable import Timetable, enter_phase
from deepcoro.tracking import Tracker

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far the run is; saved with every checkpoint."""

    step: int = 0
    """Optimiser steps done."""
    best: float | None = None
    """Best value of evaluate.best_metric so far."""
    best_step: int = 0
    """Step that had it."""
    evaluations_since_best: int = 0
    """Evaluations without a better one."""


@dataclass
class Run:
    """Everything the loop touches."""

    config: RunConfig
    parts: Parts
    engine: Engine | None
    """Of the phase that the run is in; None before the first."""
    stream: TrainingStream
    plan: Plan
    max_steps: int
    timetable: Timetable
    flops_per_sample: float | None = None
    """Of forward and backward; None where the device's peak is not known."""
    progress: Progress = field(default_factory=Progress)


def run(config: RunConfig) -> int:
    """Trains to max_steps, or until early stopping or SIGTERM. Returns the exit code: 0 done, 75 preempted after saving."""
    accelerator = start_accelerator(config)
    training = _prepare(config, accelerator)
    is_main = distributed.rank() == 0
    tracker = Tracker(config, is_main, training.progress.step, training.max_steps)
    try:
        with Preemption() as preemption:
            code = _loop(training, tracker, preemption)
            training.stream.damage.end_run()
    finally:
        tracker.close()
    if code == 0 and is_main:
        logger.info("report: %s", write_pages(config.run_dir))
    return code


def _prepare(config: RunConfig, accelerator: Any) -> Run:
    parts = build_parts(config, make_tokenizer=True)
    parts.refuse_met_in_validation()
    units = parts.shards.units("train", config.data.multi_video, config.data.num_videos)
    rows_per_step = config.batch_size * config.gradient_accumulation_steps * distributed.world_size()
    plan = Plan(
        order=training_order(parts.shards, units, config.data, config.seed, rows_per_step),
        batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    max_steps = config.max_steps or max(round(config.epochs * plan.num_units / plan.rows_per_step), 1)
    timetable = Timetable(config, max_steps)
    saved = _checkpoint_to_resume(config)
    if saved is not None:
        _refuse_another_run(config, plan, timetable, saved)
    damage = Damage(plan.num_units, config.data.max_bad_fraction, config.run_dir)
    stream = TrainingStream(parts.shards, units, parts.fields, plan, config.data.workers, damage)
    training = Run(config, parts, None, stream, plan, max_steps, timetable)
    _build_engine(training, accelerator, saved)
    if saved is not None:
        _resume(training, saved)
    if distributed.rank() == 0:
        atomic.write_text(config.run_dir / "config.yaml", show(config) + "\n")
        atomic.write_text(config.run_dir / "data.json", json.dumps(parts.shards.record(), indent=1) + "\n")
        write_positives(config, parts)
        note_start(config.run_dir, parts.shards, _facts_of_start(training, accelerator))
    return training


def _facts_of_start(training: Run, accelerator: Any) -> dict[str, str | int]:
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "engine": accelerator.distributed_type.value,
        "from_step": training.progress.step,
        "max_steps": training.max_steps,
        "global_batch": training.plan.rows_per_step,
        "seed": training.config.seed,
    }


def _build_engine(training: Run, accelerator: Any, saved: checkpoint.Checkpoint | None) -> None:
    """The model and the engine of the phase that comes after `saved` (None: of the first one)."""
    config, step = training.config, 0 if saved is None else saved.step
    model = build_model(config, training.parts)
    if saved is not None:
        model.load_state_dict(saved.weights())
    if training.engine is None and config.towers.text is not None and config.towers.text.cache_features:
        read_texts_from_disk(model, config, training.parts, accelerator.device)
    if training.engine is None and config.caches_films:
        read_films_from_disk(model, config, training.parts, accelerator.device)
    since = enter_phase(model, training.timetable, step)
    if distributed.rank() == 0:
        phase = training.timetable.at(step)
        logger.info("objectives: %s; parameters: %s", ", ".join(phase.active), num_parameters(model))
    if training.flops_per_sample is None:
        training.flops_per_sample = _flops_per_sample(config, model, accelerator.device)
    optimizer = build_optimizer(model, config.optim, config.own_lr, since, config.own_groups)
    training.engine = Engine(accelerator, model, optimizer, config)
    if saved is not None:
        training.engine.set_moments(saved.moments(), step, since)


def _enter_next_phase(training: Run, saved: checkpoint.Checkpoint) -> None:
    """Another engine in place of this one, as a resumed run would build it. The old one's memory is free before the new one is made."""
    accelerator = training.engine.accelerator
    training.engine.release()
    _build_engine(training, accelerator, saved)


def _flops_per_sample(config: RunConfig, model: nn.Module, device: torch.device) -> float | None:
    if peak_tflops(device) is None or config.caches_films:
        return None
    video = config.data.fields["video"]
    tower = model.towers["video"].to(device)
    return training_flops_per_clip(tower, video.frames, video.size_px) * config.data.clips_per_sample


def _checkpoint_to_resume(config: RunConfig) -> checkpoint.Checkpoint | None:
    saved = checkpoint.newest_whole(config.checkpoint_folder)
    if saved is not None and config.resume == "never":
        raise ConfigError(
            f"{config.run_dir} holds {saved.folder.name} and resume=never; choose another run_dir"
        )
    return saved


def _refuse_another_run(
    config: RunConfig, plan: Plan, timetable: Timetable, saved: checkpoint.Checkpoint
) -> None:
    state = saved.state()
    changed = keys_changed_since(state["config"], config, saved.folder.name)
    if changed:
        raise ConfigError(
            f"{saved.folder.name} was trained with other values of {changed}; give it back its values, "
            "or start a new run_dir (towers.video.weights=... warm-starts one)"
        )
    if state["global_batch"] != plan.rows_per_step:
        raise ConfigError(
            f"batch_size x gradient_accumulation_steps x processes was {state['global_batch']} and is "
            f"{plan.rows_per_step}; on {plan.world_size} processes set batch_size x "
            f"gradient_accumulation_steps to {state['global_batch'] / plan.world_size:g}"
        )
    past = timetable.history(saved.step)
    if state.get("phases", past) != past:
        raise ConfigError(
            f"until {saved.folder.name} the run's phases (first step, objectives, frozen) were {state['phases']}, and max_steps, schedules and "
            f"freeze now say {past}; write the moments that have passed as start_step, end_step and until_step"
        )


def _resume(training: Run, saved: checkpoint.Checkpoint) -> None:
    state = saved.state()
    training.stream.restore(state["stream"])
    training.progress = Progress(**state["progress"])
    if training.progress.best_step == saved.step:  # a crash may have come between checkpoint and pointer
        checkpoint.mark_best(training.config.checkpoint_folder, saved.step)
    logger.info("continuing from %s", saved.folder.name)


def _loop(training: Run, tracker: Tracker, preemption: Preemption) -> int:
    config, progress = training.config, training.progress
    batches = iter(training.stream)
    stopwatch = Stopwatch(training.engine.device, training.flops_per_sample)
    while progress.step < training.max_steps:
        with stopwatch.waiting_for_data():
            window = [next(batches) for _ in range(config.gradient_accumulation_steps)]
        record = train_step(
            training.engine,
            window,
            progress.step,
            _lr(training),
            training.timetable.loss_weights(progress.step),
        )
        progress.step += 1
        stopwatch.step_done(training.plan.rows_per_step)
        is_last = progress.step == training.max_steps
        epoch = _epoch_that_ended(training)
        if is_last or epoch is not None or progress.step % config.tracking.log_every_steps == 0:
            tracker.log(progress.step, _numbers(training, record, window) | stopwatch.read())
        if epoch is not None:
            training.stream.damage.end_epoch(epoch)
        tracker.advance(progress.step)
        is_better, must_stop = _evaluate_if_due(training, tracker, is_last)
        preempted = preemption.requested()
        is_boundary = training.timetable.begins_at(progress.step)
        is_due = progress.step % config.checkpoint.every_steps == 0
        if is_last or must_stop or preempted or is_better or is_boundary or is_due:
            _numbers(training, record, window)  # a diverged model is not saved
            saved = _save(training, is_better)
        if preempted and not (is_last or must_stop):
            logger.warning("SIGTERM: saved step %d, leaving with exit code %d", progress.step, EXIT_CODE)
            return EXIT_CODE
        if must_stop:
            break
        if is_boundary:
            _enter_next_phase(training, saved)
    return 0


def _lr(training: Run) -> dict[str, float]:
    step, groups = training.progress.step, training.engine.optimizer.param_groups
    warmups = training.timetable.warmups(step)
    return lr_of_groups(step, training.max_steps, training.config.optim, groups, warmups)


def _epoch_that_ended(training: Run) -> int | None:
    """The last epoch that the step before this moment finished; the same on every rank."""
    end = training.progress.step * training.plan.rows_per_step
    done = end // training.plan.num_units
    is_new = done > (end - training.plan.rows_per_step) // training.plan.num_units
    return done - 1 if is_new else None


def _numbers(training: Run, record: Record, window: list[Batch]) -> dict[str, float]:
    """Reads a record: the one place of the loop that waits for the device."""
    damage = training.stream.damage
    own_bad = torch.tensor([float(damage.own)], device=training.engine.device)
    packed = torch.cat([own_bad, *record.sums.values(), *record.metrics.values()]).float()
    totals = iter(distributed.sum_over_ranks(packed).tolist())
    bad = next(totals)
    counts = {name: record.counts[name].tolist() for name in record.sums}
    parts = {name: [next(totals) / max(count, 1) for count in of_parts] for name, of_parts in counts.items()}
    losses = {name: sum(of_parts) for name, of_parts in parts.items()}
    weights = record.loss_weights
    numbers = {"train/loss": sum(weights[name] * loss for name, loss in losses.items())}
    numbers |= {f"train/{name}/loss": loss for name, loss in losses.items()}
    for name in losses:
        named = getattr(training.engine.model.objectives[name], "parts", {})
        numbers |= {
            f"train/{name}/{part}": loss / weight
            for (part, weight), loss, count in zip(named.items(), parts[name], counts[name], strict=False)
            if count
        }
    numbers |= {f"train/{key}": next(totals) / distributed.world_size() for key in record.metrics}
    if record.grad_norm is not None:
        numbers["train/grad_norm"] = float(record.grad_norm)
    lr = dict.fromkeys(training.config.own_lr, 0.0) | lr_of_places(record.lr)
    numbers |= {f"lr/{place}": rate for place, rate in lr.items()}
    numbers |= {f"loss_weight/{name}": weights.get(name, 0.0) for name in training.config.schedules}
    if "report" in window[0]:
        numbers["speed/padded_token_fraction"] = padded_token_fraction([batch["report"] for batch in window])
    position = training.progress.step * training.plan.rows_per_step
    numbers["epoch"] = position / training.plan.num_units
    numbers |= damage.agree(round(bad), position)
    numbers |= {f"data/{key}": value for key, value in training.plan.order.counters(position).items()}
    _refuse_non_finite(training, numbers, window)
    return numbers


def _refuse_non_finite(training: Run, numbers: dict[str, float], window: list[Batch]) -> None:
    loss, norm = numbers["train/loss"], numbers.get("train/grad_norm", 0.0)
    if np.isfinite([loss, norm]).all():
        return
    rows = [int(position) for batch in window for position in batch["position"]]
    raise DataError(
        f"the loss is {loss}, the gradient's norm {norm} at step {training.progress.step} (this rank's rows {rows[0]} to {rows[-1]} of the plan); "
        "lower optim.lr or max_grad_norm; the last checkpoint is untouched"
    )


def _evaluate_if_due(training: Run, tracker: Tracker, is_last: bool) -> tuple[bool, bool]:
    """Whether this step is the best so far, and whether patience has run out; the same on every rank."""
    config, progress = training.config, training.progress
    every = config.evaluate.every_steps
    if not (is_last or (every and progress.step % every == 0)):
        return False, False
    if "val" not in training.parts.shards.splits or not config.evaluate.metrics:
        return False, False
    model = training.engine.plain_model(lambda: build_model(config, training.parts))
    active = training.timetable.at(progress.step - 1).active
    numbers = evaluate.evaluate_in_training(model, config, training.parts, active)
    tracker.log(progress.step, {f"val/{key}": value for key, value in numbers.items()})
    value = numbers.get(config.evaluate.best_metric)
    if value is None:
        logger.warning(
            "evaluate.best_metric '%s' is not among %s", config.evaluate.best_metric, sorted(numbers)
        )
        return False, False
    sign = 1 if config.evaluate.best_metric_mode == "max" else -1
    is_better = progress.best is None or sign * value > sign * progress.best
    if is_better:
        progress.best, progress.best_step, progress.evaluations_since_best = value, progress.step, 0
    else:
        progress.evaluations_since_best += 1
    patience = config.evaluate.early_stop_patience
    return is_better, patience is not None and progress.evaluations_since_best >= patience


def _save(training: Run, is_better: bool) -> checkpoint.Checkpoint:
    config, progress = training.config, training.progress
    position = progress.step * training.plan.rows_per_step
    training.stream.damage.merge()
    state = {
        "config": dump(config),
        "progress": vars(progress),
        "global_batch": training.plan.rows_per_step,
        "phases": training.timetable.history(progress.step),
        "stream": training.stream.state(position),
        "data": training.parts.provenance(),
    }
    saved = checkpoint.save(
        config.checkpoint_folder, progress.step, training.engine, state, config.checkpoint.keep
    )
    if is_better:
        checkpoint.mark_best(config.checkpoint_folder, progress.step)
    return saved
