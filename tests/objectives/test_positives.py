"""The contrastive objective under each rule: two to four ranks against the definition on the whole batch, dense, in fp64."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from deepcoro.angiography.findings import Lesion, SideFindings
from deepcoro.angiography.grammar import render
from deepcoro.features import Features, Surroundings
from deepcoro.fields.report import Config as ReportConfig
from deepcoro.losses import clip, siglip
from deepcoro.objectives.contrastive import Config
from deepcoro.positives import findings, similarity
from tests.objectives.over_ranks import loss_and_gradients
from tests.ranks import Ranks

VIDEO_DIM, TEXT_DIM = 5, 3
LOSSES = {
    "clip": clip.Config(init_logit_scale=6),
    "siglip": siglip.Config(init_logit_scale=6, init_logit_bias=-2),
}
RULES = {
    "findings": findings.Config(threshold=0.3),
    "similarity": similarity.Config(threshold=0.2, min_texts=1),
}
FORMS = ("dense", "gather", "ring")


def report(*lesions: tuple[str, int], style: str = "canonical") -> str:
    found = SideFindings("left", lesions=tuple(Lesion(*each) for each in lesions))
    return render(found, style, np.random.default_rng(1))


LAD, LAD_D1 = report(("mid_lad", 75)), report(("mid_lad", 80), ("D1", 40))
# one film with the same findings in other words, one without report, one of unreadable words, one sample that was not read
TEXTS = [
    *(LAD, LAD_D1, report(("mid_lad", 75), style="french"), None, report(("D1", 30))),
    *(
        "not of the grammar",
        LAD,
        report(("om1", 95)),
        "not of the grammar either",
        LAD_D1,
        report(("prox_rca", 20)),
        LAD,
    ),
]
UNREAD = 10
SHARES = {1: [12], 2: [7, 5], 3: [4, 4, 4], 4: [5, 1, 2, 4]}


def feature(seed: int, width: int) -> torch.Tensor:
    return torch.randn(width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def text_feature(text: str) -> torch.Tensor:
    return feature(sum(map(ord, text)), TEXT_DIM)


class Tokenizer:
    """As many tokens as letters; the tests make features of the letters themselves."""

    pad_token_id = 0

    def __call__(self, texts: list[str], **settings) -> dict:
        return {"input_ids": [[ord(letter) for letter in text] or [1] for text in texts]}


def micro_batch(rule: str, rows: range) -> tuple[Features, dict]:
    field = ReportConfig(max_tokens=10**4).build(Tokenizer())
    field.describe = RULES[rule].describer([text for text in TEXTS if text])
    batch = field.collate([TEXTS[row] for row in rows], num_videos=1)
    batch["valid"] = torch.tensor([row != UNREAD for row in rows])
    letters = [[chr(each) for each in ids if each > 1] for ids in batch["report"]["input_ids"].tolist()]
    video = torch.stack([feature(row, VIDEO_DIM) for row in rows])
    return Features(study=video, text=torch.stack([text_feature("".join(each)) for each in letters])), batch


def build(rule: str, loss: str, form: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = Config(embed_dim=4, loss=LOSSES[loss], positives=RULES[rule], form=form, tile=2)
    beside = Surroundings(VIDEO_DIM, TEXT_DIM, tokenizer=None, frames=4, size_px=32)
    return config.build(beside).double()


def trained_on(rank: int, world_size: int, rule: str, loss: str, form: str) -> dict:
    objective = build(rule, loss, form)
    start = sum(SHARES[world_size][:rank])
    features, batch = micro_batch(rule, range(start, start + SHARES[world_size][rank]))
    return loss_and_gradients(objective, features, batch, world_size)


CASES = list(itertools.product(RULES, LOSSES, FORMS))


def every_case(rank: int, world_size: int) -> dict:
    return {case: trained_on(rank, world_size, *case) for case in CASES}


@pytest.fixture(scope="module")
def trained(ranks_of: dict[int, Ranks]) -> Callable[[int], dict]:
    """Every case by number of ranks; the ranks agree, so one of them speaks."""

    @functools.cache
    def of(ranks: int) -> dict:
        return every_case(0, 1) if ranks == 1 else ranks_of[ranks].run(every_case, ranks)[0]

    return of


def weight_by_definition(rule: str, one: str, other: str) -> float:
    """From the texts themselves, a pair at a time."""
    if one == other:
        return 1.0
    if rule == "findings":
        some, others = findings.findings_of(one), findings.findings_of(other)
        if not some or not others:
            return 0.0
        weight = len(some & others) / len(some | others)
        return weight if weight >= 0.3 else 0.0
    describe = RULES[rule].describer([text for text in TEXTS if text])
    # numbers of a text travel in fp32, which is what the weights are of: in fp64 they would differ by 1e-8
    some, others = (
        dict(zip(each.keys, map(float, np.float32(each.values)), strict=True))
        for each in map(describe, (one, other))
    )
    weight = sum(value * others.get(key, 0) for key, value in some.items())
    return weight if weight >= 0.2 else 0.0


def by_definition(rule: str, loss: str) -> dict:
    objective = build(rule, loss, "dense")
    rows = [row for row, text in enumerate(TEXTS) if text and row != UNREAD]
    texts = list(dict.fromkeys(TEXTS[row] for row in rows))
    video = torch.stack([feature(row, VIDEO_DIM) for row in rows]) @ objective.video_projection.weight.T
    text = torch.stack([text_feature(each) for each in texts]) @ objective.text_projection.weight.T
    video, text = (each / each.norm(dim=1, keepdim=True) for each in (video, text))
    weights = torch.tensor(
        [[weight_by_definition(rule, TEXTS[row], each) for each in texts] for row in rows],
        dtype=torch.float64,
    )
    logits = objective.logit_scale.exp() * video @ text.T
    if loss == "clip":
        total = _soft_cross_entropy(logits, weights) + _soft_cross_entropy(logits.T, weights.T)
        total = total / 2
    else:
        logits = logits + objective.logit_bias
        pairs = weights * logsigmoid(logits) + (1 - weights) * logsigmoid(-logits)
        total = -pairs.sum() / len(rows)
    total.backward()
    assert ((weights > 0) & (weights < 1)).any(), "some positives are soft"
    return {"loss": total.detach().reshape(1)} | {
        name: each.grad for name, each in objective.named_parameters()
    }


def _soft_cross_entropy(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    targets = weights / weights.sum(dim=1, keepdim=True)
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


@pytest.mark.parametrize("world_size", [1, 2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("rule", "loss", "form"), CASES)
def test_loss_and_gradients_are_those_of_the_definition(trained, world_size, rule, loss, form):
    expected, got = by_definition(rule, loss), trained(world_size)[rule, loss, form]
    assert got.keys() == expected.keys()
    for key, wanted in expected.items():
        torch.testing.assert_close(
            got[key], wanted, rtol=1e-12, atol=1e-13, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_without_reports_is_a_zero_that_moves_nothing(rule):
    objective = build(rule, "clip", "dense")
    features, batch = micro_batch(rule, range(3, 4))
    result = objective(features, batch)
    result["sum"].backward()
    assert result["sum"].item() == 0
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in objective.parameters())
