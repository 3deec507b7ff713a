"""Weights of pairs of texts against the definitions, a pair at a time."""

import itertools

import numpy as np
import pytest
import torch

from deepcoro import matching
from deepcoro.matching import Described, alike, keys_of, matching_of, packed, weights_by_likeness
from deepcoro.pairing import PositiveWeights
from tests.ranks import Ranks


def drawn(num_texts: int, likeness: str, seed: int = 0) -> list[Described]:
    """Texts of one to five of nine keys."""
    draw = np.random.default_rng(seed)
    texts = []
    for number in range(num_texts):
        keys = sorted(draw.choice(9, draw.integers(1, 6), replace=False).tolist())
        values = np.ones(len(keys)) if likeness == "jaccard" else draw.random(len(keys)) + 0.1
        if likeness == "cosine":
            values = (values / np.linalg.norm(values)).astype(np.float32)
        texts.append(Described(100 + number, keys, values.tolist()))
    return texts


def by_definition(one: Described, other: Described, likeness: str) -> float:
    if one.meaning == other.meaning:
        return 1.0
    if likeness == "jaccard":
        return len(set(one.keys) & set(other.keys)) / len(set(one.keys) | set(other.keys))
    values = dict(zip(other.keys, other.values, strict=True))
    return sum(value * values.get(key, 0) for key, value in zip(one.keys, one.values, strict=True))


def listed(weights: PositiveWeights) -> dict[tuple[int, int], float]:
    pairs = zip(weights.video_ids.tolist(), weights.text_ids.tolist(), strict=True)
    return dict(zip(pairs, weights.weight.tolist(), strict=True))


@pytest.mark.parametrize("cells", [2**24, 1, 60])
@pytest.mark.parametrize("threshold", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("likeness", ["jaccard", "cosine"])
def test_pairs_at_or_above_the_threshold_are_found_with_their_likeness(
    monkeypatch, likeness, threshold, cells
):
    monkeypatch.setattr(matching, "_DENSE_CELLS", cells)
    texts = drawn(23, likeness)
    some, others = texts[:7], [*texts, texts[3]._replace(meaning=1)]
    found = {
        (row, column): weight
        for block in alike(packed(some), packed(others), likeness, threshold)
        for row, column, weight in zip(*(each.tolist() for each in block), strict=True)
    }
    expected = {
        (one.meaning, other.meaning): weight
        for one, other in itertools.product(some, others)
        if (weight := by_definition(one, other, likeness)) >= threshold - 1e-6
    }
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(expected) > (30 if threshold < 0.5 else len(some))


def of_rank(rank: int, world_size: int, likeness: str) -> dict:
    """Uneven shares of texts, of which some come up twice on one rank and on two; a rank without any."""
    texts = drawn(9, likeness)
    shares = {1: [texts], 2: [texts[:6] * 2, texts[4:]], 3: [texts[:6], [], [*texts[4:], texts[6]]]}
    return listed(weights_by_likeness(packed(shares[world_size][rank]), likeness, 0.3))


def on_rank(rank: int, world_size: int) -> dict:
    return {likeness: of_rank(rank, world_size, likeness) for likeness in ("jaccard", "cosine")}


@pytest.fixture(scope="module")
def of_ranks(ranks_of: dict[int, Ranks]) -> dict[int, list]:
    return {1: [on_rank(0, 1)]} | {ranks: ranks_of[ranks].run(on_rank, ranks) for ranks in (2, 3)}


@pytest.mark.parametrize("likeness", ["jaccard", "cosine"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_list_the_pairs_of_their_own_texts_with_the_texts_of_all(of_ranks, likeness, world_size):
    texts = drawn(9, likeness)
    expected = {
        (one.meaning, other.meaning): by_definition(one, other, likeness)
        for one, other in itertools.product(texts, texts)
        if by_definition(one, other, likeness) >= 0.3
    }
    found: dict = {}
    for result in of_ranks[world_size]:
        found |= result[likeness]
    assert found == pytest.approx(expected, abs=1e-6)
    assert 9 < len(found) < 81
    if world_size == 3:
        assert of_ranks[3][1][likeness] == {}


def test_a_batch_tells_ids_of_meanings_and_names_of_texts():
    texts = [Described(7, [1, 2], [1.0, 1.0]), Described(7, [1, 2], [1.0, 1.0]), Described(9, [3], [1.0])]
    report = {"index": torch.tensor([0, 1, 2, 0]), "meaning": torch.tensor([7, 7, 9])}
    batch = {
        "valid": torch.tensor([True, True, False, True]),
        "report_id": torch.tensor([50, 51, 52, -1]),
        "report": report | {"keys": packed(texts)._asdict()},
    }
    matching = matching_of(batch, num_texts=3)
    assert matching["video_id"].tolist() == [7, 7, -1, -1]
    assert matching["text_id"].tolist() == [7, 7, -1], "no valid row refers to the third text"
    assert matching["text_name"].tolist() == [50, 51, -1]
    keys = keys_of(matching)
    assert keys.key.tolist() == [1, 2, 1, 2], "nor do its keys take part"
    assert listed(weights_by_likeness(keys, "jaccard", 1.0)) == {(7, 7): 1}
    del report["meaning"]
    plain = matching_of(batch | {"report": report}, num_texts=3)
    assert plain["video_id"].tolist() == [50, 51, -1, -1]
    assert plain["text_id"].tolist() == plain["text_name"].tolist() == [50, 51, -1]
    assert plain.keys() == {"video_id", "text_id", "text_name"}
