"""Batches spread over ranks, and one rank's work on them, for the tests of both contrastive losses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from deepcoro.losses.clip import clip_loss
from deepcoro.losses.siglip import siglip_loss

LOSSES = ("clip", "siglip")
FEATURE_DIM, EMBED_DIM = 5, 4


@dataclass(frozen=True)
class Case:
    """Rows of each rank; ids None is the diagonal, where only the number of rows counts."""

    video_rows: list[int]
    text_rows: list[int]
    video_ids: list[list[int]] | None = None
    text_ids: list[list[int]] | None = None


def of_ids(video_ids: list[list[int]], text_ids: list[list[int]]) -> Case:
    return Case([len(ids) for ids in video_ids], [len(ids) for ids in text_ids], video_ids, text_ids)


CASES = {
    2: {
        "diagonal of even ranks": Case([3, 3], [3, 3]),
        "diagonal of uneven ranks": Case([4, 1], [4, 1]),
        "duplicates within and across ranks": of_ids([[7, 7, 8], [8, 9, 7]], [[7, 8], [9, 7, 7, 5]]),
        "excluded rows": of_ids([[-1, 3, 4], [3, -1]], [[3, -1], [4, 4, -1]]),
        "rows without a positive": of_ids([[1, 2, 99], [2]], [[1, 98], [2, 97]]),
        "positives on the other rank only": of_ids([[1, 2], [3, 4]], [[3, 4], [2, 1]]),
        "a rank without rows": of_ids([[1, 2, 1], []], [[1, 2], []]),
        "nobody": of_ids([[-1, -1], [-1]], [[-1], [-1]]),
    },
    3: {
        "diagonal of uneven ranks": Case([1, 3, 2], [1, 3, 2]),
        "everything at once": of_ids([[7, -1, 8], [], [8, 99, 7, 7]], [[-1, 7], [7, 8, 5], []]),
    },
}


def whole(case: Case) -> dict:
    """Inputs of all ranks and the parameters that all ranks share, fp64."""
    generator = torch.Generator().manual_seed(sum(case.video_rows) + 10 * sum(case.text_rows))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return {
        "inputs": (draw(sum(case.video_rows), FEATURE_DIM), draw(sum(case.text_rows), FEATURE_DIM)),
        "parameters": {
            "video_tower": draw(FEATURE_DIM, EMBED_DIM).requires_grad_(),
            "text_tower": draw(FEATURE_DIM, EMBED_DIM).requires_grad_(),
            "scale": torch.tensor([6.0], dtype=torch.float64, requires_grad=True),
            "bias": torch.tensor([-3.0], dtype=torch.float64, requires_grad=True),
        },
    }


def embed(rows: torch.Tensor, tower: torch.Tensor) -> torch.Tensor:
    return functional.normalize(rows @ tower, dim=-1)


def gradients(loss: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def by_hand(oracle: Callable, case: Case) -> dict:
    """Loss and gradients of the gathered batch in one process, from the slow definition."""
    batch = whole(case)
    weights = batch["parameters"]
    video = embed(batch["inputs"][0], weights["video_tower"])
    text = embed(batch["inputs"][1], weights["text_tower"])
    if case.video_ids is None:
        ids = (list(range(len(video))), list(range(len(text))))
    else:
        ids = tuple(
            [number for of_rank in side for number in of_rank] for side in (case.video_ids, case.text_ids)
        )
    loss = oracle(video, text, weights["scale"], weights["bias"], *ids)
    return {"loss": loss.detach(), **gradients(loss, weights | {"video": video, "text": text})}


def on_rank(rank: int, name: str, case: Case) -> dict:
    """What one rank computes: its loss, and gradients of the shared parameters and of its own features."""
    batch = whole(case)
    weights = batch["parameters"]
    my_inputs = (
        torch.split(batch["inputs"][0], case.video_rows)[rank],
        torch.split(batch["inputs"][1], case.text_rows)[rank],
    )
    video = embed(my_inputs[0], weights["video_tower"])
    text = embed(my_inputs[1], weights["text_tower"])
    ids = (None, None)
    if case.video_ids is not None:
        ids = tuple(torch.tensor(side[rank], dtype=torch.int64) for side in (case.video_ids, case.text_ids))
    if name == "clip":
        loss = clip_loss(video, text, weights["scale"], *ids)
    else:
        loss = siglip_loss(video, text, weights["scale"], weights["bias"], *ids)
    return {"loss": loss.detach(), **gradients(loss, weights | {"video": video, "text": text})}


def every_case(rank: int, world_size: int) -> dict:
    return {
        (name, title): on_rank(rank, name, case)
        for name in LOSSES
        for title, case in CASES[world_size].items()
    }


def assert_equal_to_one_process(of_ranks: list[dict], expected: dict) -> None:
    """Averaged over ranks, as data-parallel training averages; feature gradients are the rank's own rows."""
    world_size = len(of_ranks)
    for key, wanted in expected.items():
        if wanted is None:  # the softmax loss has no bias
            assert all(result[key] is None for result in of_ranks)
            continue
        parts = [result[key] for result in of_ranks]
        got = torch.cat(parts) / world_size if key in ("video", "text") else sum(parts) / world_size
        torch.testing.assert_close(
            got, wanted, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}"
        )
