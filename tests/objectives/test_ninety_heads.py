"""What the users train: 90 heads on studies of up to 10 clips, half of the labels missing, against everything written out."""

from typing import Any

import pytest
import torch
from torch import nn

from deepcoro.features import Features, VideoFeatures
from deepcoro.objectives.linear_probing import Config
from deepcoro.poolers import attention
from tests.objectives.over_ranks import loss_and_gradients
from tests.objectives.probing import DIM, loss_of_label, make_batch, make_features, make_objective, rows_of
from tests.ranks import Ranks

SEGMENTS = [f"segment_{number}" for number in range(1, 19)]
LOSSES = {"stenosis": {"type": "huber", "delta": 5}, "stenosis_binary": "bce", "calcif": "ordinal"}
LOSSES |= {"cto": "focal", "thrombus": "bce"}
HEADS = {f"{segment}_{finding}": loss for finding, loss in LOSSES.items() for segment in SEGMENTS}
SETTINGS: dict[str, Any] = {
    "head_structure": {head: 4 if head.endswith("calcif") else 1 for head in HEADS},
    "loss_structure": HEADS,
    "head_weights": {head: 0.02 for head in HEADS if head.endswith("stenosis")},
    "class_weights": {head: [0.5, 5.0] for head in HEADS if head.endswith("cto")},
}
ROWS, CLIPS = 10, 10


class Probe(nn.Module):
    """Pooler and heads, as the model holds them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pooler = attention.Config(hidden_dim=4, hierarchical=True).build(DIM).double()
        for parameter in self.pooler.parameters():
            nn.init.normal_(parameter)
        self.heads = make_objective(SETTINGS)

    def forward(self, features: Features, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        pooled = Features(study=self.pooler(features.clips), clips=features.clips)
        return self.heads(pooled, batch)

    def count(self, batch: dict[str, Any]) -> torch.Tensor:
        return self.heads.count(batch)


def data() -> tuple[Features, dict[str, Any], Probe]:
    """Row r has r + 1 clips; one row could not be read, one head has no label at all."""
    probe, features = Probe(), make_features(ROWS, CLIPS)
    batch = make_batch(probe.heads, features, missing=0.5)
    batch["valid"][6] = False
    batch["labels"]["segment_3_thrombus"][:] = torch.nan
    return features, batch, probe


def weighed_by_hand(scorer: nn.Module, members: list[torch.Tensor]) -> torch.Tensor:
    scores = [
        scorer.score.weight[0] @ (scorer.content(each).tanh() * scorer.gate(each).sigmoid())
        for each in members
    ]
    chances = torch.stack(scores).exp()
    return sum(chance * each for chance, each in zip(chances / chances.sum(), members, strict=True))


def loss_by_hand(probe: Probe, features: Features, batch: dict[str, Any]) -> torch.Tensor:
    """Study by study, clip by clip, head by head."""
    config = Config.model_validate(SETTINGS)
    tokens, mask = features.clips.tokens, features.clips.clip_mask
    studies = [
        weighed_by_hand(
            probe.pooler.across,
            [weighed_by_hand(probe.pooler.within, list(clip)) for clip in tokens[row, mask[row]]],
        )
        for row in range(ROWS)
    ]
    total = torch.zeros((), dtype=torch.float64)
    for head, module in probe.heads.heads.items():
        known = [
            (row, label)
            for row, label in enumerate(batch["labels"][head].tolist())
            if label == label and batch["valid"][row]
        ]
        losses = [loss_of_label(config, head, module, studies[row], label) for row, label in known]
        if losses:
            total = total + config.head_weights.get(head, 1.0) * sum(losses) / len(losses)
    return total


def test_loss_and_gradient_of_90_heads_are_those_written_out():
    features, batch, probe = data()
    assert len(probe.heads.heads) == 90
    features.clips.tokens.requires_grad_()
    expected = loss_by_hand(probe, features, batch)
    count = probe.count(batch)
    assert 0.4 < count.sum() / (90 * (ROWS - 1)) < 0.6 and count.min() == 0
    got = (probe(features, batch)["sum"] / count.clamp(min=1)).sum()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=0)
    leaves = [*probe.parameters(), features.clips.tokens]
    mine = torch.autograd.grad(got, leaves)
    theirs = torch.autograd.grad(expected, leaves, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)
    assert not mine[-1][6].any() and mine[-1][5].any(), "an unreadable row moves nothing"


def shares(rank: int, rows_of_rank: list[list[int]]) -> dict[str, torch.Tensor]:
    features, batch, probe = data()
    return loss_and_gradients(probe, *rows_of(features, batch, rows_of_rank[rank]), len(rows_of_rank))


@pytest.mark.parametrize("first", [[0], [0, 2, 4, 6, 8]])
def test_two_ranks_have_the_loss_and_gradients_of_one(two_ranks: Ranks, first: list[int]):
    everything = list(range(ROWS))
    alone = shares(0, [everything])
    for rank in two_ranks.run(shares, [first, [row for row in everything if row not in first]]):
        torch.testing.assert_close(rank, alone, rtol=1e-9, atol=1e-10)


def test_padding_to_more_clips_changes_no_loss():
    features, batch, probe = data()
    more = torch.zeros(ROWS, 3, *features.clips.tokens.shape[2:], dtype=torch.float64)
    mask = torch.cat([features.clips.clip_mask, torch.zeros(ROWS, 3, dtype=torch.bool)], dim=1)
    clips = VideoFeatures(torch.cat([features.clips.tokens, more], dim=1), mask, False)
    got = probe(Features(clips=clips), batch | {"clip_mask": mask})["sum"]
    torch.testing.assert_close(got, probe(features, batch)["sum"], rtol=1e-12, atol=1e-12)
