"""What 1 to 256 GPUs cost, on paper: traffic and time of a step by engine, hours, reading, checkpoints, and a drawing of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deepcoro.planning.activations import Activations, Parameters
from deepcoro.planning.sheet import Task
from deepcoro.planning.speed import StepTime, gpu_seconds, step_time
from deepcoro.planning.states import Rank, peak_of
from deepcoro.planning.table import GB
from deepcoro.planning.traffic import (
    Exchanging,
    Machine,
    contrastive_exchanges,
    exchanges,
    ring_bytes,
    traffic_seconds,
)
from deepcoro.report_figures import COLOURS, INK, STYLE, as_svg, new_figure

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GPUS_OF_NODE = 8
ENGINES: tuple[Exchanging, ...] = (
    *("ddp", "zero0", "zero1", "zero2", "zero2_offload"),
    *("zero3", "zero3_offload", "zero3_hpz", "zero3_plus_plus"),
)
DRAWN: tuple[Exchanging, ...] = ("ddp", "zero2", "zero3", "zero3_hpz", "zero2_offload")
DISK_GB_PER_S = 1.0
"""What a rank writes of a checkpoint to a file system that all share. Assumed."""


@dataclass(frozen=True)
class Curve:
    """A config's model and micro-step, on the GPUs of `machine` but in any number."""

    machine: Machine
    sizes: Parameters
    work: Activations
    films: int
    """Of a GPU's batch, which is one micro-step."""

    def on(self, gpus: int) -> Machine:
        """So many GPUs in full nodes."""
        return replace(self.machine, gpus=gpus, nodes=max(1, gpus // GPUS_OF_NODE))

    def time(self, engine: Exchanging, gpus: int) -> StepTime:
        return step_time(engine, self.on(gpus), self.sizes, self.work)

    def sent_gb(self, engine: Exchanging, gpus: int) -> float:
        """By each GPU in a step; what stays in a node goes to fewer."""
        of_node = min(gpus, GPUS_OF_NODE)
        found = exchanges(engine, self.sizes)
        return sum(each.sent_bytes(of_node if each.in_node else gpus) for each in found) / GB

    def efficiency(self, engine: Exchanging, gpus: int) -> float:
        """Films/s of a GPU, as a share of those of one GPU alone under DDP."""
        return self.time("ddp", 1).seconds / self.time(engine, gpus).seconds

    def films_per_s(self, engine: Exchanging, gpus: int) -> float:
        return self.films * gpus / self.time(engine, gpus).seconds

    def hours(self, engine: Exchanging, gpus: int, task: Task) -> float:
        return task.films * task.epochs / self.films_per_s(engine, gpus) / 3600

    def fewest_films(self, engine: Exchanging, gpus: int) -> float:
        """Of a GPU's micro-step: with fewer the computation no longer hides what runs beside it, were the host no matter."""
        hidden, _ = traffic_seconds(engine, self.on(gpus), self.sizes)
        return hidden / gpu_seconds(self.machine, self.work) * self.films


def traffic_table(curve: Curve) -> str:
    """GB that each GPU sends in a step, and milliseconds that links take for it."""

    def cell(engine: Exchanging, gpus: int) -> str:
        time = curve.time(engine, gpus)
        return f"{curve.sent_gb(engine, gpus):.2f} · {1e3 * (time.hidden_traffic + time.open_traffic):.0f}"

    return _table("engine", [(engine, [cell(engine, gpus) for gpus in COUNTS]) for engine in ENGINES])


def efficiency_table(curve: Curve) -> str:
    """Milliseconds of a whole step, and films/s of a GPU in percent of one alone."""

    def cell(engine: Exchanging, gpus: int) -> str:
        return f"{1e3 * curve.time(engine, gpus).seconds:.0f} · {100 * curve.efficiency(engine, gpus):.0f} %"

    return _table("engine", [(engine, [cell(engine, gpus) for gpus in COUNTS]) for engine in ENGINES])


def switch_table(curve: Curve) -> str:
    """GB between steps, and the fewest films of a micro-step that hide the traffic beside it."""

    def cell(engine: Exchanging, gpus: int) -> str:
        idle = peak_of(engine, Rank(gpus), curve.sizes, curve.work).idle / GB
        return f"{idle:.2f} · {curve.fewest_films(engine, gpus):.1f}"

    divided = [each for each in ENGINES if each not in ("zero3_hpz", "zero3_plus_plus")]
    return _table("engine", [(engine, [cell(engine, gpus) for gpus in COUNTS]) for engine in divided])


def run_table(curve: Curve, task: Task, width: int | None) -> str:
    """Hours and reading of a run under DDP; bytes of the contrastive loss where there is one, its embeddings `width` wide."""

    def rows() -> Iterator[tuple[str, list[str]]]:
        rates = [curve.films_per_s("ddp", gpus) for gpus in COUNTS]
        hours = [curve.hours("ddp", gpus, task) for gpus in COUNTS]
        yield "films/s", [f"{rate:.0f}" for rate in rates]
        yield "hours", [f"{each:.2f}" for each in hours]
        yield "GPU-hours", [f"{each * gpus:.1f}" for each, gpus in zip(hours, COUNTS, strict=True)]
        yield "loader, MB/s in all", [f"{rate * task.film_mb:.0f}" for rate in rates]
        of_node = [rate / max(1, gpus // GPUS_OF_NODE) for rate, gpus in zip(rates, COUNTS, strict=True)]
        yield "loader, MB/s a node", [f"{rate * task.film_mb:.0f}" for rate in of_node]
        if width is None:
            return
        yield "contrastive, dense: MB sent a GPU", [f"{_dense_mb(curve, gpus, width):.1f}" for gpus in COUNTS]
        ring = (ring_bytes(curve.films, width, gpus, visits=2) / 1e6 for gpus in COUNTS)
        yield "contrastive, ring: MB sent a GPU", [f"{each:.1f}" for each in ring]

    return _table("", list(rows()))


def _dense_mb(curve: Curve, gpus: int, width: int) -> float:
    found = contrastive_exchanges("dense", curve.films, width, gpus)
    return sum(each.sent_bytes(gpus) for each in found) / 1e6


def checkpoint_line(curve: Curve, disk_gb_per_s: float) -> str:
    size = curve.sizes.checkpoint_bytes / GB
    return (
        f"A checkpoint is {size:.2f} GB on any number of GPUs (weights and both moments, fp32): {size / disk_gb_per_s:.1f} s "
        f"at {disk_gb_per_s:g} GB/s, beside the training unless the next one comes sooner."
    )


def _table(corner: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [f"| {corner} | {' | '.join(map(str, COUNTS))} |", f"|---|{'---|' * len(COUNTS)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows)])


def drawing(curve: Curve) -> str:
    """SVG: milliseconds on links beside those of the computation, and what is left of a GPU's speed."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure, (links, left) = new_figure(9.6, 3.6, columns=2)
        for colour, engine in zip(COLOURS, DRAWN, strict=True):
            times = [curve.time(engine, gpus) for gpus in COUNTS[1:]]
            on_links = [1e3 * (each.hidden_traffic + each.open_traffic) for each in times]
            links.plot(COUNTS[1:], on_links, color=colour, marker="o", markersize=3, label=engine)
            shares = [100 * curve.efficiency(engine, gpus) for gpus in COUNTS]
            left.plot(COUNTS, shares, color=colour, marker="o", markersize=3, label=engine)
        links.axhline(1e3 * curve.time("ddp", 1).compute, color=INK, linestyle="--", label="computation")
        links.set(ylabel="ms of a step on links", ylim=(0, None))
        left.set(ylabel="% of one GPU's films/s", ylim=(0, 105))
        for axes in (links, left):
            axes.set_xscale("log", base=2)
            axes.set_xticks(COUNTS, map(str, COUNTS))
            axes.minorticks_off()
            axes.set_xlabel("GPUs, eight of a node")
        links.legend()
        return as_svg(figure, "Time on links, and share of one GPU's speed, by number of GPUs and engine")
