"""A plan in words and tables: what fits, what to run, how long it takes, what it reads and writes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.table import Table

from deepcoro.config import ConfigError
from deepcoro.planning.speed import gpu_seconds, issue_seconds
from deepcoro.planning.table import GB, RESERVED_GB, WASTE, Choice, Plan, micro_batches

FILM_MB = 1.31
"""Of a film of 60 frames in shards as they are by default (docs/benchmarks/2026-11-26-data.md)."""


@dataclass(frozen=True)
class Task:
    """What the run is to see."""

    films: int
    epochs: float
    film_mb: float = FILM_MB


def as_table(plan: Plan) -> Table:
    """A row an engine and way, a column a micro-batch: need in GB, and share of the fastest choice's samples a second."""
    table = Table(
        title=f"GB of each GPU, and % of the unconstrained speed; {plan.gpu_memory_gb:g} GB are there"
    )
    for name in ("engine", "activations"):
        table.add_column(name)
    sizes = micro_batches(plan.config.batch_size)
    for size in sizes:
        table.add_column(f"micro-batch {size}", justify="right")
    for engine, way, choices in rows(plan):
        table.add_row(engine, way, *(_cell(plan, each) for each in choices))
    return table


def as_markdown(plan: Plan) -> str:
    sizes = micro_batches(plan.config.batch_size)
    lines = [
        f"| engine | activations | {' | '.join(f'micro-batch {size}' for size in sizes)} |",
        f"|---|---|{'---|' * len(sizes)}",
    ]
    for engine, way, choices in rows(plan):
        cells = (_words(plan, each) if plan.fits(each) else f"({_words(plan, each)})" for each in choices)
        lines.append(f"| {engine} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rows(plan: Plan) -> Iterator[tuple[str, str, list[Choice]]]:
    """Engine, way, and its choices by micro-batch, largest first."""
    number = len(micro_batches(plan.config.batch_size))
    choices = plan.choices()
    for start in range(0, len(choices), number):
        of_row = choices[start : start + number]
        yield of_row[0].engine, of_row[0].way, of_row


def _words(plan: Plan, choice: Choice) -> str:
    return f"{choice.need_gb:.1f} · {100 * speed(plan, choice):.0f} %"


def _cell(plan: Plan, choice: Choice) -> str:
    color = "green" if plan.fits(choice) else "red"
    mark = "" if plan.fits(choice) else "no "
    return f"[{color}]{mark}{_words(plan, choice)}[/]"


def speed(plan: Plan, choice: Choice) -> float:
    """Share of the samples a second that the config would have if memory were no matter."""
    gpus = plan.machine.gpus
    return choice.samples_per_s(gpus) / plan.unconstrained().samples_per_s(gpus)


def about(plan: Plan, choice: Choice, task: Task) -> Iterator[str]:
    """Lines on a choice: where its memory goes, its hours, its reading and writing."""
    sizes, work = plan.work(choice.way, choice.micro_batch)
    yield (
        f"take {choice.engine}, activations {choice.way}, micro-batch {choice.micro_batch} x {choice.micro_steps} micro-steps x "
        f"{plan.machine.gpus} GPUs: {choice.need_gb:.1f} of {plan.gpu_memory_gb:g} GB, {100 * speed(plan, choice):.0f} % of the speed "
        "without bounds on memory"
    )
    yield (
        f"  {sizes.all / 1e6:.0f} M parameters, {sizes.trained / 1e6:.0f} M of them trained; between steps {choice.peak.idle / GB:.2f} GB, in "
        f"forward and backward {choice.peak.backward / GB:.2f} GB ({work.kept / GB:.2f} GB kept for backward), in AdamW's step "
        f"{choice.peak.step / GB:.2f} GB"
    )
    yield (
        f"  torch.cuda.max_memory_allocated() should tell {choice.allocated_gb:.1f} GB; of the card {choice.need_gb:.1f} GB are asked for: "
        f"{100 * WASTE:.0f} % of waste and {RESERVED_GB:g} GB for CUDA, NCCL and workspaces come on top"
    )
    if choice.peak.host:
        yield f"  of each GPU's host {choice.peak.host / GB:.2f} GB"
    yield from _durations(plan, choice, task)
    size, kept = sizes.checkpoint_bytes / GB, plan.config.checkpoint.keep + 1
    yield f"  a checkpoint is {size:.2f} GB, {kept} of them are kept: {kept * size:.1f} GB of disk"


def _durations(plan: Plan, choice: Choice, task: Task) -> Iterator[str]:
    rate, length = films_per_s(plan, choice), hours(plan, choice, task)
    machine = plan.machine
    yield (
        f"  {rate:.0f} films/s: {task.films} films x {task.epochs:g} epochs take {length:.1f} hours, {length * machine.gpus:.0f} GPU-hours "
        f"(at {machine.tflops:.3g} TFLOP/s a GPU and {machine.launch_us:.3g} us a kernel; --samples_per_s of your own log makes it yours)"
    )
    work = plan.work(choice.way, choice.micro_batch)[1]
    if issue_seconds(machine, work) > gpu_seconds(machine, work):
        yield (
            f"  the host sets the pace: it issues {work.launches} kernels a micro-step; larger micro-batches"
            f"{' and clips_per_chunk' if plan.config.clips_per_chunk else ''} cost no time until the GPU is busy"
        )
    yield f"  the loader reads {rate * task.film_mb:.0f} MB/s in all, {rate / plan.machine.gpus:.0f} films/s a GPU"


def films_per_s(plan: Plan, choice: Choice) -> float:
    films_of_sample = plan.config.data.num_videos if plan.config.data.multi_video else 1
    return choice.samples_per_s(plan.machine.gpus) * films_of_sample


def hours(plan: Plan, choice: Choice, task: Task) -> float:
    return task.films * task.epochs / films_per_s(plan, choice) / 3600


def summary(plans: Sequence[Plan], task: Task) -> str:
    """Of plans of one config the choice of each, a line a plan, as Markdown; where nothing fits, what the least would need."""
    lines = [
        "| GPUs | GB of each | engine | activations | micro-batch x steps | allocated, GB | needs, GB | speed | films/s | hours |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for plan in plans:
        start = f"| {plan.machine.gpus} | {plan.gpu_memory_gb:g} |"
        try:
            best = plan.best()
        except ConfigError as error:
            lines.append(f"{start} {error} | | | | | | | |")
            continue
        lines.append(
            f"{start} {best.engine} | {best.way} | {best.micro_batch} x {best.micro_steps} | {best.allocated_gb:.1f} | {best.need_gb:.1f} | "
            f"{100 * speed(plan, best):.0f} % | {films_per_s(plan, best):.0f} | {hours(plan, best, task):.1f} |"
        )
    return "\n".join(lines)
