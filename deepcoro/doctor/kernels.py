"""Which attention kernel each block of the config's video encoder will take here, and why not another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from deepcoro.doctor.finding import Finding, join

ELSEWHERE = "it runs on CUDA only"
"""Why most kernels are refused on a CPU; told only of one that was asked for."""


@dataclass(frozen=True)
class Choice:
    """The kernel of blocks of one shape."""

    shape: str
    kernel: str
    width: int
    refused: tuple[str, ...]
    """`kernel: reason` of those that cannot run here."""


@dataclass(frozen=True)
class Kernels:
    """Of an encoder; `tower` is its type."""

    tower: str
    asked: str
    """`towers.video.attention`; empty where the tower has no such key."""
    choices: tuple[Choice, ...] = ()
    named: tuple[str, ...] = ()
    """Names of the kernels that `asked` stands for; none for auto."""


def kernels(config: Any) -> Kernels:
    """Of a run config, on the device that a run would take. A few seconds: each kernel is held against the oracle."""
    import torch

    from deepcoro.kernels.attention_plan import NAMED
    from deepcoro.kernels.grid import strided
    from deepcoro.mvit.shapes import VARIANTS

    tower = config.towers.video
    if tower.type != "video_mvit":
        return Kernels(tower.type, "")
    video = config.data.fields["video"]
    grid = strided(((video.frames - 1) // 2 + 1, video.size_px, video.size_px), 4)
    shapes = {
        (each.head_dim, each.query_grid, each.key_grid): each
        for each in VARIANTS[tower.variant].block_shapes(grid, tower.kv_grid)
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bf16"):
        choices = tuple(_choice(shape, tower, device) for shape in shapes.values())
    named = tuple(kernel.name for kernel in NAMED.get(tower.attention, ()))
    return Kernels(tower.type, tower.attention, choices, named)


def _choice(shape: Any, tower: Any, device: str) -> Choice:
    import torch

    from deepcoro.kernels.attention_plan import plan_attention, plan_every
    from deepcoro.mvit.layout import dense_layout

    layout = dense_layout(shape, tower.class_token).attention
    tokens = torch.zeros(1, 1, shape.dim_out, device=device)
    plan = plan_attention(
        layout, tokens, shape.head_dim, tower.attention, relative=tower.positions == "relative"
    )
    _, refused = plan_every(layout, tokens, shape.head_dim)
    queries, keys = ("x".join(map(str, each)) for each in (shape.query_grid, shape.key_grid))
    name = "plain" if plan.kernel is None else plan.kernel.name
    return Choice(f"{queries} queries, {keys} keys", name, plan.width, tuple(refused))


def findings(found: Kernels) -> Iterator[Finding]:
    """A line a kernel, with the blocks that take it."""
    if found.tower != "video_mvit":
        yield Finding("attention", "note", f"towers.video is {found.tower}: its library chooses")
        return
    for kernel in dict.fromkeys(each.kernel for each in found.choices):
        yield _about_kernel(kernel, [each for each in found.choices if each.kernel == kernel], found)


def _about_kernel(kernel: str, choices: Sequence[Choice], found: Kernels) -> Finding:
    blocks = f"{kernel} for {join([f'{each.shape} (width {each.width})' for each in choices], 2)}"
    refused = dict.fromkeys(reason for each in choices for reason in each.refused)
    told = [reason for reason in refused if not reason.endswith(ELSEWHERE)]
    why = f"; not {join(told, 3)}" if told else ""
    if kernel == "plain":
        return Finding("attention", "slow", blocks, "the whole map is held: towers.video.attention=auto")
    if found.named and kernel not in found.named:
        reasons = [each for each in refused if each.split(":")[0] in found.named]
        return Finding(
            "attention",
            "slow",
            f"{blocks}; {found.asked} was asked for and cannot serve: {join(reasons, 3)}",
            "towers.video.attention=auto, or install what is missing",
        )
    return Finding("attention", "ok", blocks + why)
