"""The verb `train`: build, loop, save, evaluate. It knows no paradigm."""

import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from deepcoro import atomic, checkpoint, distributed, evaluate
from deepcoro.build import Parts, build_model, build_parts
from deepcoro.config import ConfigError, dump, show
from deepcoro.data.damage import Damage
from deepcoro.data.plan import Plan
from deepcoro.data.stream import TrainingStream
from deepcoro.data.training_order import training_order
from deepcoro.data.units import Units
from deepcoro.engine import Engine, start_accelerator
from deepcoro.frozen_films import read_films_from_disk
from deepcoro.frozen_texts import read_texts_from_disk
from deepcoro.model import Batch, num_parameters
from deepcoro.optim import build_optimizer, lr_of_groups
from deepcoro.positives_page import write_positives
from deepcoro.preemption import EXIT_CODE, Preemption
from deepcoro.profiling import Profiling
from deepcoro.readings import read_numbers
from deepcoro.run_config import RunConfig, keys_changed_since
from deepcoro.run_pages import write_pages
from deepcoro.run_record import last_start, note_start
from deepcoro.run_state import Due, Progress, Run
from deepcoro.saving import Saver
from deepcoro.skipped import Skipped
from deepcoro.speed import DeviceHours, Stopwatch, peak_tflops, training_flops_per_clip
from deepcoro.step import train_step
from deepcoro.teachers import start_teachers
from deepcoro.timetable import Timetable, enter_phase
from deepcoro.tracking import Tracker
from deepcoro.watchdog import Watchdog

logger = logging.getLogger(__name__)


def run(config: RunConfig) -> int:
    """Trains to max_steps, or until early stopping or SIGTERM. Returns the exit code: 0 done, 75 preempted after saving."""
    accelerator = start_accelerator(config)
    hours = DeviceHours(accelerator.device, config.run_dir / "metrics.jsonl")
    training = _prepare(config, accelerator)
    is_main = distributed.rank() == 0
    profiling = Profiling(config.profile, config.run_dir, training.max_steps)
    start = last_start(config.run_dir) if is_main else {}
    tracker = Tracker(config, is_main, training.progress.step, training.max_steps, start)
    watchdog = Watchdog(config.run_dir, config.stall_timeout_s, distributed.rank())
    try:
        with Preemption() as preemption, watchdog, Saver(config) as saver:
            code = _loop(training, tracker, preemption, watchdog, saver, hours, profiling)
            saver.finish()
            training.stream.damage.end_run()
    finally:
        profiling.close()
        tracker.close()
    if code == 0 and is_main:
        logger.info("report: %s", write_pages(config.run_dir))
    return code


def _prepare(config: RunConfig, accelerator: Any) -> Run:
    parts = build_parts(config, make_tokenizer=True)
    _refuse_patience_without_val(config, parts)
    parts.refuse_met_in_validation()
    units = _units(config, parts)
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
    stream = _stream(config, parts, plan)
    skipped = Skipped(config.non_finite, config.run_dir)
    training = Run(config, parts, None, stream, plan, max_steps, timetable, skipped)
    _resume(training, saved)
    step, account = training.progress.step, None if saved is None else saved.state().get("non_finite", {})
    training.stream.skip_to(skipped.restore(account, step))
    _build_engine(training, accelerator, saved)
    if distributed.rank() == 0:
        atomic.write_text(config.run_dir / "config.yaml", show(config) + "\n")
        atomic.write_text(config.run_dir / "data.json", json.dumps(parts.shards.record(), indent=1) + "\n")
        write_positives(config, parts)
        note_start(config.run_dir, parts.shards, _facts_of_start(training, accelerator))
    return training


def _refuse_patience_without_val(config: RunConfig, parts: Parts) -> None:
    if config.evaluate.early_stop_patience is not None and "val" not in parts.shards.splits:
        raise ConfigError(
            f"evaluate.early_stop_patience={config.evaluate.early_stop_patience} counts evaluations on the val split, and {parts.shards.name} has "
            "none: give some patients the split val, or set evaluate.early_stop_patience=null",
            topic="empty-split",
        )


def _units(config: RunConfig, parts: Parts) -> Units:
    return parts.shards.units("train", config.data.multi_video, config.data.num_videos)


def _stream(config: RunConfig, parts: Parts, plan: Plan) -> TrainingStream:
    damage = Damage(plan.num_units, config.data.max_bad_fraction, config.run_dir)
    return TrainingStream(
        parts.shards, _units(config, parts), parts.fields, plan, config.data.workers, damage
    )


def _facts_of_start(training: Run, accelerator: Any) -> dict[str, Any]:
    device = accelerator.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "engine": accelerator.distributed_type.value,
        "from_step": training.progress.step,
        "max_steps": training.max_steps,
        "global_batch": training.plan.rows_per_step,
        "seed": training.config.seed,
        "conflicting_labels": training.parts.conflicting_labels,
    }


def _build_engine(training: Run, accelerator: Any, saved: checkpoint.Checkpoint | None) -> None:
    """The model and the engine of the phase that comes after `saved` (None: of the first one)."""
    config, step = training.config, 0 if saved is None else saved.step
    model = build_model(config, training.parts)
    if saved is not None:
        model.load_state_dict(saved.weights())
    start_teachers(model, training.timetable.beginning_at(step))
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
        training.engine.set_moments(saved.moments(), step, since, training.skipped.steps)


def _enter_next_phase(training: Run) -> None:
    """Another engine in place of this one, as a run resumed at this step would build it. The old one's memory is free before the new one is
    made."""
    saved = checkpoint.Checkpoint(training.config.checkpoint_folder / f"step_{training.progress.step}")
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
            f"{config.run_dir} holds {saved.folder.name} and resume=never; choose another run_dir",
            topic="resume",
        )
    if saved is not None and "imported" in saved.state():
        raise ConfigError(
            f"{config.run_dir} holds an imported model, which was not trained here and cannot go on; train in another run_dir with "
            f"towers.video.weights={config.run_dir}"
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
            "or start a new run_dir (towers.video.weights=... warm-starts one)",
            topic="resume",
        )
    if state["global_batch"] != plan.rows_per_step:
        raise ConfigError(
            f"batch_size x gradient_accumulation_steps x processes was {state['global_batch']} and is "
            f"{plan.rows_per_step}; on {plan.world_size} processes set batch_size x "
            f"gradient_accumulation_steps to {state['global_batch'] / plan.world_size:g}",
            topic="resume",
        )
    past = timetable.history(saved.step)
    if state.get("phases", past) != past:
        raise ConfigError(
            f"until {saved.folder.name} the run's phases (first step, objectives, frozen) were {state['phases']}, and max_steps, schedules and "
            f"freeze now say {past}; write the moments that have passed as start_step, end_step and until_step",
            topic="resume",
        )


def _resume(training: Run, saved: checkpoint.Checkpoint | None) -> None:
    """Stream and progress as `saved` holds them; None: as they are before the first step."""
    training.progress = Progress()
    if saved is None:
        return
    state = saved.state()
    training.stream.restore(state["stream"])
    training.progress = Progress(**state["progress"])
    if training.progress.best_step == saved.step:  # a crash may have come between checkpoint and pointer
        checkpoint.mark_best(training.config.checkpoint_folder, saved.step)
    logger.info("continuing from %s", saved.folder.name)


def _loop(
    training: Run,
    tracker: Tracker,
    preemption: Preemption,
    watchdog: Watchdog,
    saver: Saver,
    hours: DeviceHours,
    profiling: Profiling,
) -> int:
    accumulation = training.config.gradient_accumulation_steps
    batches, stopwatch = _begin(training)
    while (step := training.progress.step) < training.max_steps:
        profiling.before(step + 1)
        watchdog.enter("data", step + 1)
        with stopwatch.waiting_for_data():
            window = [next(batches) for _ in range(accumulation)]
        watchdog.enter("compute", step + 1)
        weights = training.timetable.loss_weights(step)
        record = train_step(training.engine, window, step, _lr(training), weights)
        step = training.progress.step = step + 1
        training.skipped.note(step, record.took_step)
        stopwatch.step_done(training.plan.rows_per_step)
        due = _due(training)
        reads = due.log or due.evaluation
        if reads:
            numbers = read_numbers(training, record, window)
            if training.skipped.too_many:
                batches, stopwatch = _roll_back(training, tracker, watchdog, saver, batches)
                continue
        if due.log:
            tracker.log(step, numbers | stopwatch.read() | hours.read())
        if due.ended_epoch is not None:
            training.stream.damage.end_epoch(due.ended_epoch)
        tracker.advance(step)
        watchdog.enter(None, step)
        is_better, must_stop = _evaluate(training, tracker) if due.evaluation else (False, False)
        watchdog.enter("save", step)
        preempted, is_due, save_failed = distributed.any_rank(
            preemption.noted, saver.is_due(step), saver.has_failed
        )
        if save_failed:
            saver.finish()
        if due.checkpoint or is_due or preempted or must_stop or is_better:
            if not reads:  # a checkpoint knows of every skipped step
                read_numbers(training, record, window)
            if training.skipped.too_many:
                batches, stopwatch = _roll_back(training, tracker, watchdog, saver, batches)
                continue
            _save(training, saver, is_better)
        if preempted and not (must_stop or step == training.max_steps):
            saver.finish()
            logger.warning("SIGTERM: saved step %d, leaving with exit code %d", step, EXIT_CODE)
            return EXIT_CODE
        if must_stop:
            break
        if due.next_phase:
            saver.finish()
            watchdog.enter(None, step)
            _enter_next_phase(training)
    return 0


def _begin(training: Run) -> tuple[Iterator[Batch], Stopwatch]:
    return iter(training.stream), Stopwatch(training.engine.device, training.flops_per_sample)


def _due(training: Run) -> Due:
    step, config = training.progress.step, training.config
    is_last, ended_epoch = step == training.max_steps, _epoch_that_ended(training)
    evaluates, logs = config.evaluate.every_steps, config.tracking.log_every_steps
    next_phase = training.timetable.begins_at(step)
    return Due(
        log=is_last or ended_epoch is not None or step % logs == 0,
        ended_epoch=ended_epoch,
        evaluation=is_last or (evaluates is not None and step % evaluates == 0),
        checkpoint=is_last or next_phase,
        next_phase=next_phase,
    )


def _roll_back(
    training: Run, tracker: Tracker, watchdog: Watchdog, saver: Saver, batches: Iterator[Batch]
) -> tuple[Iterator[Batch], Stopwatch]:
    """Back to the last checkpoint from before the skipped steps, and on with other batches: what has been read since is not read again."""
    watchdog.enter(None, training.progress.step)
    batches.close()
    saver.finish()
    folder, here, end = training.config.checkpoint_folder, training.progress.step, training.position
    training.skipped.stop_if_often()
    saved = checkpoint.newest_before(folder, training.skipped.too_many[0])
    training.stream = _stream(training.config, training.parts, training.plan)
    _resume(training, saved)
    step = training.progress.step
    checkpoint.give_up_after(folder, step, training.progress.best_step)
    training.skipped.go_back(here, step, (training.stream.start_position, end))
    training.stream.skip_to(end)
    accelerator = training.engine.accelerator
    training.engine.release()
    _build_engine(training, accelerator, saved)
    tracker.go_back(step)
    logger.warning("went back from step %d to step %d, and on with other samples", here, step)
    return _begin(training)


def _lr(training: Run) -> dict[str, float]:
    step, groups = training.progress.step, training.engine.optimizer.param_groups
    warmups = training.timetable.warmups(step)
    return lr_of_groups(step, training.max_steps, training.config.optim, groups, warmups)


def _epoch_that_ended(training: Run) -> int | None:
    """The last epoch that the step before this moment finished; the same on every rank."""
    end, num_units = training.position, training.plan.num_units
    is_new = end // num_units > (end - training.plan.rows_per_step) // num_units
    return end // num_units - 1 if is_new else None


def _evaluate(training: Run, tracker: Tracker) -> tuple[bool, bool]:
    """Whether this step is the best so far, and whether patience has run out; the same on every rank."""
    config, progress = training.config, training.progress
    if "val" not in training.parts.shards.splits or not config.evaluate.metrics:
        return False, False
    model = training.engine.plain_model(lambda: build_model(config, training.parts))
    active = training.timetable.at(progress.step - 1).active
    numbers, films = evaluate.evaluate_in_training(model, config, training.parts, active)
    tracker.log(progress.step, {f"val/{key}": value for key, value in numbers.items()})
    tracker.log_films(progress.step, films)
    value = numbers.get(config.evaluate.best_metric)
    if value is None:
        logger.warning(
            "evaluate.best_metric '%s' was not measured on val (a name that no metric has, or labels of one class), so no "
            "checkpoint is the best yet; among the %d of this evaluation: %s",
            config.evaluate.best_metric,
            len(numbers),
            _like(config.evaluate.best_metric, numbers),
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


def _like(metric: str, numbers: Mapping[str, float]) -> str:
    """The few numbers that somebody who wrote `metric` may mean: the nearest names, else means over heads and the first ones."""
    names = [name for name in numbers if not name.endswith(("_ci_low", "_ci_high", "_chance"))]
    found = difflib.get_close_matches(metric, names, n=4, cutoff=0.6)
    return ", ".join(found or sorted(names, key=lambda name: "/macro/" not in name)[:4])


def _save(training: Run, saver: Saver, is_better: bool) -> None:
    config, progress = training.config, training.progress
    training.stream.damage.merge()
    state = {
        "config": dump(config),
        "progress": vars(progress),
        "global_batch": training.plan.rows_per_step,
        "phases": training.timetable.history(progress.step),
        "stream": training.stream.state(training.position),
        "non_finite": training.skipped.state(),
        "data": training.parts.provenance(),
    }
    saver.save(progress.step, training.engine, state, is_better)
