"""Every attention kernel that can run here at every block shape of MViTv2-S: forward + backward, interleaved in one process.

    python tools/benchmark_attention.py --device cuda --batch 32 --precision bf16
    python tools/benchmark_attention.py --batch 1 --precision fp32 bf16 --clock process

Prints one Markdown row a shape; a kernel that the start-up check refuses has the reason below the table. `split` takes the
keys a few frames at a time, `wide` all at once; `*` is the choice of `auto`. Sparse rows hold a quarter of the cells.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.attention_plan import AttentionPlan, plan_attention, plan_every
from deepcoro.kernels.grid import strided
from deepcoro.kernels.rel_pos_attention import rel_pos_attention
from deepcoro.mvit.shapes import VARIANTS, BlockShape
from deepcoro.video_benchmark import CLOCKS, DTYPES


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=224)
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--visible", type=float, default=1.0, help="share of the cells that is there")
    parser.add_argument("--plain", action="store_true", help="also the oracle, which holds the whole map")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser.parse_args(words)


def distinct_shapes(options: argparse.Namespace) -> list[BlockShape]:
    grid = strided(((options.frames - 1) // 2 + 1, options.size_px, options.size_px), 4)
    shapes = VARIANTS["mvit_v2_s"].block_shapes(grid)
    return list({(s.query_grid, s.key_grid, s.heads): s for s in reversed(shapes)}.values())[::-1]


def make_layout(shape: BlockShape, options: argparse.Namespace) -> AttentionLayout:
    if options.visible == 1.0:
        return AttentionLayout(shape.query_grid, shape.key_grid)
    positions = []
    for frames, height, width in (shape.query_grid, shape.key_grid):
        cells = frames * height * width
        draws = [
            torch.randperm(cells)[: int(options.visible * cells)].sort().values for _ in range(options.batch)
        ]
        positions.append(torch.stack(draws).to(options.device))
    return AttentionLayout(shape.query_grid, shape.key_grid, True, *positions)


def make_step(
    shape: BlockShape, layout: AttentionLayout, plan: AttentionPlan, options: argparse.Namespace
) -> Callable[[], None]:
    """One forward and backward from q, k, v as the pooling writes them."""
    counts = [
        1 + (grid[0] * grid[1] * grid[2] if where is None else where.shape[1])
        for grid, where in (
            (layout.query_grid, layout.query_positions),
            (layout.key_grid, layout.key_positions),
        )
    ]

    def draw(num_tokens: int, width: int, scale: float = 1.0) -> Tensor:
        tokens = torch.zeros(
            options.batch, num_tokens, shape.heads, width, device=options.device, dtype=plan.dtype
        )
        tokens[..., : plan.dim].normal_(std=scale)
        return tokens.requires_grad_()

    q, k = draw(counts[0], plan.width), draw(counts[1], plan.width, plan.dim**-0.5)
    v = draw(counts[1], plan.value_width)
    pairs = zip(layout.query_grid, layout.key_grid, strict=True)
    rows = [0.1 * torch.randn(2 * max(pair) - 1, plan.dim, device=options.device) for pair in pairs]
    tables = tuple(table.requires_grad_() for table in rows)
    by_out = torch.randn(options.batch, counts[0], shape.heads, plan.dim, device=options.device).to(
        plan.dtype
    )

    def step() -> None:
        out = rel_pos_attention(q, k, v, tables, layout, plan, add_queries=True)
        torch.autograd.grad(out, (q, k, v, *tables), by_out)
        if by_out.is_cuda:
            torch.cuda.synchronize()

    return step


def time_steps(steps: dict[str, Callable[[], None]], options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each, taking turns so that another load on the machine meets all alike."""
    clock = CLOCKS[options.clock]
    milliseconds = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if repeat:
                milliseconds[name].append(1e3 * (clock() - start))
    return {name: median(times) for name, times in milliseconds.items()}


def name_of(plan: AttentionPlan) -> str:
    if plan.kernel is None:
        return "plain"
    return f"{plan.kernel.name} {'wide' if plan.split is None else 'split'} {plan.width}"


def benchmark_shape(
    shape: BlockShape, dtype: torch.dtype, options: argparse.Namespace
) -> tuple[dict[str, float], str, list[str]]:
    """Milliseconds by plan, the plan that `auto` takes, and why others cannot run."""
    layout = make_layout(shape, options)
    tokens = torch.empty(0, device=options.device, dtype=dtype)
    plans, refused = plan_every(layout, tokens, shape.head_dim)
    if options.plain:
        plans.append(plan_attention(layout, tokens, shape.head_dim, "plain"))
    steps = {name_of(plan): make_step(shape, layout, plan, options) for plan in plans}
    chosen = plan_attention(layout, tokens, shape.head_dim, "auto")
    return time_steps(steps, options), name_of(chosen), refused


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    torch.manual_seed(0)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; {options.batch} clips of "
        f"{options.frames} x {options.size_px}²; forward + backward, ms of {options.clock} time\n"
    )
    refusals: dict[str, None] = {}
    for precision in options.precision:
        print(f"| {precision}: queries, keys, heads | by kernel |\n|---|---|")
        for shape in distinct_shapes(options):
            times, chosen, refused = benchmark_shape(shape, DTYPES[precision], options)
            refusals |= dict.fromkeys(refused)
            cells = [f"{name}{'*' if name == chosen else ''} {value:.1f}" for name, value in times.items()]
            print(f"| {shape.query_grid}, {shape.key_grid}, {shape.heads} | {', '.join(cells)} |", flush=True)
        print()
    for refusal in refusals:
        print(f"- {refusal}")


if __name__ == "__main__":
    main()
