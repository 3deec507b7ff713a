"""What a batch tells of who belongs to whom: ids of its rows and texts, and the keys by which a rule likens texts.

Ids are what weights speak of: the report's, or those of its meaning where a rule likens texts (texts that the rule cannot tell apart
share an id, so that pairs of meanings are weighed and not pairs of texts). Names tell the texts themselves apart. All tensors are
flat, so that those of several micro-batches are joined by `torch.cat`, name by name.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepcoro.distributed import counts_of_ranks, gather_rows
from deepcoro.pairing import EXCLUDED, PositiveWeights

Likeness = Literal["jaccard", "cosine"]
# numbers of a block of keys or of pairs that are held dense: 128 MiB
_DENSE_CELLS = 2**24
_ROUNDING = 1e-6  # values are fp32: a text's cosine with a copy of itself is 1 but for rounding


class Described(NamedTuple):
    """One text as a rule sees it."""

    meaning: int
    """63 bits; equal for texts that the rule cannot tell apart."""
    keys: Sequence[int]
    """What it holds, each once."""
    values: Sequence[float]
    """How much of each: ones for `jaccard`, a unit vector for `cosine`."""


class Keys(NamedTuple):
    """What texts hold, an entry a key of a meaning. An entry may come up again."""

    meaning: Int[Tensor, "entry"]
    key: Int[Tensor, "entry"]
    value: Float[Tensor, "entry"]


def packed(described: Sequence[Described]) -> Keys:
    """All keys of all texts, behind one another."""
    return Keys(
        torch.tensor([each.meaning for each in described for _ in each.keys], dtype=torch.int64),
        torch.tensor([key for each in described for key in each.keys], dtype=torch.int64),
        torch.tensor([value for each in described for value in each.values], dtype=torch.float32),
    )


def video_ids_of(batch: Mapping[str, Any]) -> Int[Tensor, "row"]:
    """Report ids of the rows; EXCLUDED where the sample is invalid or has no report."""
    return batch["report_id"].masked_fill(~batch["valid"], EXCLUDED)


def matching_of(batch: Mapping[str, Any], num_texts: int) -> dict[str, Tensor]:
    """`video_id` [row], `text_id` and `text_name` [text] of a batch of which `num_texts` are encoded; EXCLUDED where the sample is
    invalid or has no report, and where no valid row refers to the text (the stand-in of an empty batch). Where a rule likens texts
    also the parts of Keys, as `keys/...` [entry]; where the data list pairs those of PositiveWeights, as `positives/...` [pair].
    """
    report, index = batch["report"], batch["report"]["index"]
    video_ids = video_ids_of(batch)
    if "id" in report:
        listed = {f"positives/{name}": value for name, value in batch["positives"].items()}
        return {"video_id": video_ids, "text_id": report["id"], "text_name": report["id"], **listed}
    nobody = video_ids.new_full((num_texts,), EXCLUDED)
    names = nobody.scatter_reduce(0, index, video_ids, "amax")
    if "meaning" not in report:
        return {"video_id": video_ids, "text_id": names, "text_name": names}
    meaning = report["meaning"]
    return {
        "video_id": meaning[index].masked_fill(video_ids == EXCLUDED, EXCLUDED),
        "text_id": meaning.masked_fill(names == EXCLUDED, EXCLUDED),
        "text_name": names,
        **{f"keys/{name}": value for name, value in report["keys"].items()},
    }


def keys_of(matching: Mapping[str, Tensor]) -> Keys:
    """The keys that `matching_of` gave, of the texts that somebody refers to."""
    keys = Keys(*(matching[f"keys/{name}"] for name in Keys._fields))
    is_used = torch.isin(keys.meaning, matching["text_id"])
    return Keys(*(each[is_used] for each in keys))


def listed_in(matching: Mapping[str, Tensor]) -> PositiveWeights | None:
    """The pairs that the data list; None where they do not."""
    if "positives/weight" not in matching:
        return None
    return PositiveWeights(*(matching[f"positives/{name}"] for name in ("video_id", "text_id", "weight")))


@torch.no_grad()
def weights_by_likeness(mine: Keys, likeness: Likeness, threshold: float) -> PositiveWeights:
    """How much the texts of all ranks are positives of this rank's: 1 for one meaning, and else as alike as they are.

    Collective. Pairs less alike than `threshold` are not listed. The keys of all ranks lie on every rank, and one block of pairs
    at a time; what is kept are the pairs listed. Waits for the device: how many there are is known then only.
    """
    counts = [count for (count,) in counts_of_ranks(len(mine.key))]
    everyones = Keys(*(gather_rows(each, counts) for each in mine))
    found = [*zip(*alike(mine, everyones, likeness, threshold), strict=True)]
    if not found:
        return PositiveWeights(mine.meaning, mine.meaning, mine.value.double())
    one, other, weight = (torch.cat(each) for each in found)
    return PositiveWeights(one, other, torch.where(one == other, 1, weight))


def alike(
    some: Keys, others: Keys, likeness: Likeness, threshold: float
) -> Iterator[tuple[Int[Tensor, "pair"], Int[Tensor, "pair"], Float[Tensor, "pair"]]]:
    """Pairs of meanings at least as alike as `threshold`, a block of others after another: of some, of others, likeness (fp64).

    `jaccard`: keys in common / keys of either. `cosine`: the product of the unit vectors.
    """
    known, columns = torch.cat([some.key, others.key]).unique(return_inverse=True)
    my_meanings, mine = _matrix(some, columns[: len(some.key)], len(known))
    meanings, theirs = _matrix(others, columns[len(some.key) :], len(known))
    my_sizes, sizes = (each.sum(dim=1).to_dense() for each in (mine, theirs))
    per_block = max(_DENSE_CELLS // max(len(known), len(my_meanings), 1), 1)
    for start in range(0, len(meanings) if len(my_meanings) else 0, per_block):
        block = slice(start, min(start + per_block, len(meanings)))
        dense = torch.narrow_copy(theirs, 0, start, block.stop - start).to_dense()
        shared = torch.sparse.mm(mine, dense.T)
        if likeness == "jaccard":
            shared = shared / (my_sizes[:, None] + sizes[block] - shared)
        row, column = (shared >= threshold - _ROUNDING).nonzero(as_tuple=True)
        yield my_meanings[row], meanings[block][column], shared[row, column].clamp(max=1)


def _matrix(keys: Keys, columns: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    """The distinct meanings, ascending, and how much each holds of each key: sparse [meaning, column], fp64."""
    meanings, rows = keys.meaning.unique(return_inverse=True)
    place = rows * num_columns + columns
    ordered, order = place.sort(stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    entries = order[is_first]
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows[entries], columns[entries]]),
        keys.value[entries].double(),
        (len(meanings), num_columns),
        check_invariants=False,
        is_coalesced=True,
    )
    return meanings, matrix
