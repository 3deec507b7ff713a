"""Batches spread over ranks, and one rank's work on them, for the tests of both contrastive losses."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from deepcoro.distributed import world_size as number_of_ranks
from deepcoro.kernels.tiled_contrastive import Tiling
from deepcoro.losses import clip, siglip
from deepcoro.losses.clip import clip_loss
from deepcoro.losses.siglip import siglip_loss
from deepcoro.pairing import EXCLUDED, Pairs, PositiveWeights, pair_up

LOSSES = {"clip": clip.Config().build(), "siglip": siglip.Config().build()}
# `called` is the loss as its function gives it; tiles of two rows divide hardly any of the cases
FORMS = ("called", "dense", "gather", "ring")
TILE = 2
FEATURE_DIM, EMBED_DIM = 5, 4
Weights = list[tuple[int, int, float]]


@dataclass(frozen=True)
class Case:
    """Rows of each rank; ids None is the diagonal, where only the number of rows counts."""

    video_rows: list[int]
    text_rows: list[int]
    video_ids: list[list[int]] | None = None
    text_ids: list[list[int]] | None = None
    weights: list[Weights] | None = None
    """(video id, text id, weight) of each rank's own videos; None makes equal ids positives."""

    def of_pair(self, video_id: int, text_id: int) -> float:
        if self.weights is None:
            return float(video_id == text_id)
        listed = [each for of_rank in self.weights for each in of_rank if each[:2] == (video_id, text_id)]
        return listed[0][2] if listed else 0.0


def of_ids(
    video_ids: list[list[int]], text_ids: list[list[int]], weights: list[Weights] | None = None
) -> Case:
    rows = ([len(ids) for ids in side] for side in (video_ids, text_ids))
    return Case(*rows, video_ids, text_ids, weights)


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
        "a rank of excluded rows": of_ids([[1, 2, 3], [-1, -1]], [[1, 3, 2], [-1]]),
        "weights": of_ids(
            [[1, 2, 2], [3, 1]],
            [[10, 11], [12, 10, 13]],
            [
                [(1, 10, 1.0), (1, 12, 0.25), (2, 11, 0.5)],
                [(3, 13, 1.0), (3, 12, 0.75), (1, 10, 1.0), (1, 12, 0.25)],
            ],
        ),
        "weights beside excluded and unknown ids": of_ids(
            [[1, -1, 2], [4]],
            [[1, 2], [-1, 5]],
            [[(1, 2, 0.5), (1, 2, 0.9), (1, 99, 1.0), (-1, 5, 1.0)], [(77, 1, 1.0), (2, -1, 1.0)]],
        ),
    },
    3: {
        "diagonal of uneven ranks": Case([1, 3, 2], [1, 3, 2]),
        "everything at once": of_ids([[7, -1, 8], [], [8, 99, 7, 7]], [[-1, 7], [7, 8, 5], []]),
    },
    4: {
        "diagonal of even ranks": Case([3, 3, 3, 3], [3, 3, 3, 3]),
        "everything at once": of_ids(
            [[7, -1, 8, 9, 9], [], [8, 99, 7], [-1, -1]], [[-1, 7], [7, 8, 5], [9], [98, -1, 7]]
        ),
        "weights at once": of_ids(
            [[1, 2], [2, 3, -1, 6], [], [5]],
            [[11], [], [12, 13, 11, 15], [-1, 14]],
            [
                [(1, 11, 0.5), (1, 13, 1.0), (2, 12, 0.125)],
                [(2, 12, 0.125), (3, 11, 1.0), (3, 15, 0.6)],
                [],
                [(5, 14, 1.0)],
            ],
        ),
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


_BY_HAND: dict[str, dict] = {}


def by_hand(oracle: Callable, case: Case) -> dict:
    """Loss and gradients of the gathered batch in one process, from the slow definition; once, since all forms ask."""
    key = f"{oracle.__module__} {case}"
    if key not in _BY_HAND:
        _BY_HAND[key] = _by_hand(oracle, case)
    return _BY_HAND[key]


def _by_hand(oracle: Callable, case: Case) -> dict:
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
    loss = oracle(video, text, weights["scale"], weights["bias"], *ids, case.of_pair)
    return {"loss": loss.detach(), **gradients(loss, weights | {"video": video, "text": text})}


def on_rank(rank: int, name: str, case: Case, form: str = "called") -> dict:
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
    given = (video, text, *ids, positive_weights(case, rank))
    if form != "called":
        loss = loss_in_form(name, pair_up(*given), weights, form)
    elif name == "clip":
        loss = clip_loss(*given[:2], weights["scale"], *given[2:])
    else:
        loss = siglip_loss(*given[:2], weights["scale"], weights["bias"], *given[2:])
    return {"loss": loss.detach(), **gradients(loss, weights | {"video": video, "text": text})}


def loss_in_form(name: str, pairs: Pairs, parameters: dict, form: str) -> torch.Tensor:
    bias = parameters["bias"] if name == "siglip" else None
    share = LOSSES[name].share(pairs, parameters["scale"], bias, Tiling(form, TILE)).sum
    counts = {"clip": pairs.num_video_queries, "siglip": (pairs.videos.all_ids != EXCLUDED).sum()}
    return share * number_of_ranks() / counts[name].clamp(min=1)


def positive_weights(case: Case, rank: int) -> PositiveWeights | None:
    if case.weights is None:
        return None
    columns = list(zip(*case.weights[rank], strict=True)) or [(), (), ()]
    video_ids, text_ids = (torch.tensor(column, dtype=torch.int64) for column in columns[:2])
    return PositiveWeights(video_ids, text_ids, torch.tensor(columns[2], dtype=torch.float64))


def every_case(rank: int, world_size: int) -> dict:
    return {
        (name, title, form): on_rank(rank, name, case, form)
        for name in LOSSES
        for title, case in CASES[world_size].items()
        for form in FORMS
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
        # absolute: what rounding leaves where terms of the size of 1 cancel
        torch.testing.assert_close(
            got, wanted, rtol=1e-12, atol=1e-13, msg=lambda text, key=key: f"{key}: {text}"
        )
