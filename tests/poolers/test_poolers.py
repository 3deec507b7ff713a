import pytest
import torch

from deepcoro.poolers import attention, mean

CONFIGS = [mean.Config(), attention.Config(hidden_dim=8)]
MASK = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])


def build(config):
    """A pooler away from its start, where attention is still the plain mean."""
    torch.manual_seed(0)
    pooler = config.build(6)
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter)
    return pooler


@pytest.fixture
def clips():
    return torch.randn(3, 3, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_padding_changes_nothing(config, clips):
    pooler = build(config)
    pooled = pooler(clips, MASK)
    padded = torch.cat([clips, torch.full((3, 5, 6), 1e4)], dim=1)
    mask = torch.cat([MASK, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    assert (pooler(padded, mask) - pooled).abs().max() < 1e-6
    alone = pooler(clips[:1, [0, 2]], torch.ones(1, 2, dtype=torch.bool))
    assert (alone - pooled[:1]).abs().max() < 1e-6


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_a_study_without_clips_is_zeros_and_moves_nothing(config, clips):
    pooler = build(config)
    clips[2] = torch.nan
    clips.requires_grad_()
    pooled = pooler(clips, MASK)
    pooled.square().sum().backward()
    assert pooled[2].eq(0).all()
    assert clips.grad[2].eq(0).all()
    assert clips.grad[0, 1].eq(0).all()
    assert clips.grad[1].ne(0).any()
    assert all(parameter.grad.isfinite().all() for parameter in pooler.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_the_order_of_clips_does_not_count(config, clips):
    pooler = build(config)
    order = [2, 0, 1]
    torch.testing.assert_close(pooler(clips[:, order], MASK[:, order]), pooler(clips, MASK))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.type)
def test_a_study_of_one_clip_is_that_clip(config, clips):
    only = torch.tensor([[False, True, False]] * 3)
    torch.testing.assert_close(build(config)(clips, only), clips[:, 1])


def test_the_mean_is_the_mean_of_real_clips(clips):
    pooled = mean.Config().build(6)(clips, MASK)
    torch.testing.assert_close(pooled[0], (clips[0, 0] + clips[0, 2]) / 2)
    torch.testing.assert_close(pooled[1], clips[1].mean(dim=0))


def test_attention_starts_as_the_mean_and_can_learn_a_single_clip(clips):
    torch.manual_seed(0)
    pooler = attention.Config(hidden_dim=8).build(6)
    torch.testing.assert_close(pooler(clips, MASK), mean.Config().build(6)(clips, MASK))
    mask = torch.ones(3, 3, dtype=torch.bool)
    optimiser = torch.optim.Adam(pooler.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (pooler(clips, mask) - clips[:, 1]).square().sum().backward()
        optimiser.step()
    assert pooler.weights(clips, mask)[:, 1].min() > 0.9


def test_attention_by_hand(clips):
    pooler = build(attention.Config(hidden_dim=8))
    hidden = [pooler.content(clip).tanh() * pooler.gate(clip).sigmoid() for clip in clips[0, [0, 2]]]
    scores = torch.stack([pooler.score.weight[0] @ each for each in hidden])
    chances = scores.exp() / scores.exp().sum()
    torch.testing.assert_close(pooler(clips, MASK)[0], chances[0] * clips[0, 0] + chances[1] * clips[0, 2])
    assert pooler.weights(clips, MASK).sum(dim=1).tolist() == pytest.approx([1, 1, 0])


def test_bf16_clips_have_fp32_weights(clips):
    pooler = build(attention.Config(hidden_dim=8)).bfloat16()
    assert pooler.weights(clips.bfloat16(), MASK).dtype == torch.float32
    assert pooler(clips.bfloat16(), MASK).dtype == torch.bfloat16
