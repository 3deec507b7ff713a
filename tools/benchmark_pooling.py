"""Pooling of queries, keys and values at every block shape of MViTv2-S: forward + backward, interleaved in one process.

    OMP_NUM_THREADS=1 python tools/benchmark_pooling.py --batch 2 --precision fp32 bf16 --clock process
    python tools/benchmark_pooling.py --device cuda --batch 32 --precision bf16

`torchvision` is its way: a transposed contiguous copy, `F.conv3d`, a copy back, class token by `cat`, LayerNorm in fp32; it
pools all tokens also where --visible masks ours. Prints one Markdown row a shape and the total over the 16 blocks.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from deepcoro.kernels.grid import strided
from deepcoro.kernels.pool_layout import PoolFilter, PoolLayout
from deepcoro.kernels.token_pooling import PoolPart, pool_projection
from deepcoro.mvit.layout import BlockLayout, dense_layout, sparse_layouts, visible_units
from deepcoro.mvit.shapes import VARIANTS, BlockShape
from deepcoro.video_benchmark import CLOCKS, DTYPES


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size_px", type=int, default=224)
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=["fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=3, help="timed turns of each, after one warm-up")
    parser.add_argument("--visible", type=float, default=1.0, help="share of the mask units that ours pools")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    return parser.parse_args(words)


def block_layouts(shapes: list[BlockShape], options: argparse.Namespace) -> list[BlockLayout]:
    if options.visible == 1.0:
        return [dense_layout(shape, True) for shape in shapes]
    frames, height, width = shapes[-1].query_grid
    num_units = frames * height * width
    scores = torch.rand(options.batch, num_units, device=options.device)
    visible = scores.topk(round(options.visible * num_units), dim=1).indices.sort(dim=1).values
    return sparse_layouts(shapes, visible_units(shapes, visible), True)


def make_ours(
    shape: BlockShape, layout: BlockLayout, dtype: torch.dtype, options: argparse.Namespace
) -> Callable[[], None]:
    projected, filters = draw(shape, layout.query, dtype, options)
    parts = [
        PoolPart(each, way, shape.head_dim + 24)
        for each, way in zip(filters, (layout.query, layout.key, layout.key), strict=True)
    ]
    return lambda: differentiate(list(pool_projection(projected, parts)), projected, filters)


def make_torchvision(
    shape: BlockShape, dtype: torch.dtype, options: argparse.Namespace
) -> Callable[[], None]:
    layout = dense_layout(shape, True)
    projected, filters = draw(shape, layout.query, dtype, options)
    strides = (shape.query_stride, shape.key_stride, shape.key_stride)

    def step() -> None:
        parts = projected.unbind(2)
        pooled = [pool_as_torchvision(*each, shape) for each in zip(parts, filters, strides, strict=True)]
        differentiate(pooled, projected, filters)

    return step


def pool_as_torchvision(tokens: Tensor, pool_filter: PoolFilter, stride: int, shape: BlockShape) -> Tensor:
    frames, height, _ = shape.grid
    tokens = rearrange(tokens, "b l n c -> b n l c")
    class_token, patches = tokens[:, :, :1], tokens[:, :, 1:]
    film = rearrange(patches, "b n (t h w) c -> (b n) c t h w", t=frames, h=height).contiguous()
    weight = pool_filter.weight.to(tokens.dtype)
    film = F.conv3d(film, weight, stride=(1, stride, stride), padding=1, groups=len(weight))
    pooled = rearrange(film, "(b n) c t h w -> b n (t h w) c", n=shape.heads)
    both = torch.cat((class_token, pooled), dim=2).float()
    normed = F.layer_norm(both, both.shape[-1:], pool_filter.norm_weight, pool_filter.norm_bias, 1e-6)
    return normed.to(tokens.dtype)


def draw(
    shape: BlockShape, layout: PoolLayout, dtype: torch.dtype, options: argparse.Namespace
) -> tuple[Tensor, list[PoolFilter]]:
    dim, device = shape.head_dim, options.device
    size = (options.batch, 1 + layout.num_patches_in, 3, shape.heads, dim)
    projected = torch.randn(size, device=device).to(dtype).requires_grad_()
    sizes = ((dim, 1, 3, 3, 3), (dim,), (dim,))
    filters = [
        PoolFilter(*(torch.randn(size, device=device).requires_grad_() for size in sizes)) for _ in "qkv"
    ]
    return projected, filters


def differentiate(pooled: list[Tensor], projected: Tensor, filters: list[PoolFilter]) -> None:
    inputs = [projected, *(each for pool_filter in filters for each in pool_filter)]
    torch.autograd.grad(pooled, inputs, [each.detach() for each in pooled])
    if projected.is_cuda:
        torch.cuda.synchronize()


def time_steps(steps: dict[str, Callable[[], None]], options: argparse.Namespace) -> dict[str, float]:
    """Least milliseconds of each, taking turns so that another load on the machine meets all alike."""
    clock = CLOCKS[options.clock]
    milliseconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 1):
        for name, step in steps.items():
            start = clock()
            step()
            if repeat:
                milliseconds[name].append(1e3 * (clock() - start))
    return {name: min(times) for name, times in milliseconds.items()}


def main(words: list[str] | None = None) -> None:
    options = parse_arguments(words)
    torch.manual_seed(0)
    grid = strided(((options.frames - 1) // 2 + 1, options.size_px, options.size_px), 4)
    shapes = VARIANTS["mvit_v2_s"].block_shapes(grid)
    layouts = block_layouts(shapes, options)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; {options.clock} ms\n")
    print("| precision | block | torchvision | ours | ratio |\n|---|---|---|---|---|")
    for precision in options.precision:
        dtype, totals, timed = DTYPES[precision], {"torchvision": 0.0, "ours": 0.0}, {}
        for number, (shape, layout) in enumerate(zip(shapes, layouts, strict=True)):
            if shape not in timed:
                steps = {
                    "torchvision": make_torchvision(shape, dtype, options),
                    "ours": make_ours(shape, layout, dtype, options),
                }
                timed[shape] = time_steps(steps, options)
                print(f"| {precision} | {number} {describe(shape)} | {row(timed[shape])}", flush=True)
            totals = {name: total + timed[shape][name] for name, total in totals.items()}
        print(f"| {precision} | all {len(shapes)} | {row(totals)}", flush=True)


def describe(shape: BlockShape) -> str:
    grid = "x".join(map(str, shape.grid))
    return f"({grid}, heads {shape.heads}, strides {shape.query_stride} and {shape.key_stride})"


def row(milliseconds: dict[str, float]) -> str:
    theirs, ours = milliseconds["torchvision"], milliseconds["ours"]
    return f"{theirs:.1f} | {ours:.1f} | {theirs / ours:.1f}x |"


if __name__ == "__main__":
    main()
