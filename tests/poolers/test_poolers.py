"""Every pooler on studies with padding, in other orders, without clips; what each is, by hand; views embedded and left out."""

import pytest
import torch

from deepcoro.config import ConfigError
from deepcoro.features import VideoFeatures
from deepcoro.poolers import (
    aggregator,
    attention,
    attention_cls_token,
    cls_token,
    mean,
    mean_cls_token,
    multi_instance,
    transformer,
)
from deepcoro.poolers import max as greatest
from deepcoro.pooling.views import ViewEmbedding

DIM = 6
PLAIN = {
    "mean": mean.Config(),
    "max": greatest.Config(),
    "attention": attention.Config(hidden_dim=8),
    "cls_token": cls_token.Config(num_attention_heads=2),
    "mean_cls_token": mean_cls_token.Config(num_attention_heads=2),
    "attention_cls_token": attention_cls_token.Config(hidden_dim=8, num_attention_heads=2),
    "transformer": transformer.Config(num_attention_heads=2, layers=2),
}
HIERARCHICAL = {
    f"hierarchical {name}": PLAIN[name].model_copy(update={"hierarchical": True})
    for name in ("attention", "cls_token", "attention_cls_token")
}
_AS_THERE = {"embed_dim": 8, "num_attention_heads": 2}
IMPORTED = {
    "hierarchical multi_instance attention": multi_instance.Config(**_AS_THERE, hidden_dim=8),
    "hierarchical multi_instance mean attention": multi_instance.Config(
        pooling_mode="mean+cls_token", **_AS_THERE
    ),
}
EMBEDDED = {
    f"{name} of views": config.model_copy(update={"view_embedding": True})
    for name, config in (PLAIN | HIERARCHICAL | IMPORTED).items()
    if name in ("mean", "transformer", "hierarchical attention")
}
ALL = PLAIN | HIERARCHICAL | IMPORTED | EMBEDDED
WEIGHING = [name for name in ALL if "attention" in name or "cls_token" in name and "mean" not in name]
MASK = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])


def build(name):
    """A pooler away from its start, where weights are still equal."""
    torch.manual_seed(0)
    pooler = ALL[name].build(DIM)
    for parameter in pooler.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return pooler


def features_of(tokens, mask=MASK, fill=0.0):
    """Clips outside of the mask hold `fill`."""
    return VideoFeatures(tokens.masked_fill(~mask[..., None, None], fill), mask, has_class_token=True)


@pytest.fixture
def tokens():
    return torch.randn(3, 3, 4, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def views():
    """The first study's first film was taken at an unknown angle."""
    angles = 90 * torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(2))
    angles[0, 0] = torch.nan
    return angles


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_nothing(name, tokens, views):
    pooler = build(name)
    pooled = pooler(features_of(tokens), views)
    padded = torch.cat([tokens, torch.zeros(3, 5, 4, DIM)], dim=1)
    mask = torch.cat([MASK, torch.zeros(3, 5, dtype=torch.bool)], dim=1)
    wider = torch.cat([views, torch.full((3, 5, 2), 45.0)], dim=1)
    assert (pooler(features_of(padded, mask, fill=1e4), wider) - pooled).abs().max() < 1e-6
    alone = pooler(features_of(tokens[:1, [0, 2]], torch.ones(1, 2, dtype=torch.bool)), views[:1, [0, 2]])
    assert (alone - pooled[:1]).abs().max() < 1e-6


@pytest.mark.parametrize("name", ALL)
def test_a_study_without_clips_is_zeros_and_moves_nothing(name, tokens, views):
    pooler = build(name)
    tokens.requires_grad_()
    pooled = pooler(features_of(tokens), views)
    pooled.square().sum().backward()
    assert pooled.shape == (3, pooler.dim)
    assert pooled[2].eq(0).all()
    assert tokens.grad[2].eq(0).all()
    assert tokens.grad[0, 1].eq(0).all()
    assert tokens.grad[1].ne(0).any()
    assert all(parameter.grad.isfinite().all() for parameter in pooler.parameters())


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_clips_does_not_count(name, tokens, views):
    pooler, order = build(name), [2, 0, 1]
    mixed = pooler(features_of(tokens[:, order], MASK[:, order]), views[:, order])
    assert (mixed - pooler(features_of(tokens), views)).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["mean", "max", "attention"])
def test_a_study_of_one_clip_is_that_clip(name, tokens):
    only = torch.tensor([[False, True, False]] * 3)
    torch.testing.assert_close(build(name)(features_of(tokens, only)), tokens[:, 1, 0])


@pytest.mark.parametrize("name", ALL)
def test_only_hierarchical_poolers_read_more_than_the_class_token(name, tokens, views):
    pooler, other = build(name), tokens.clone()
    other[:, :, 1:] += 1
    is_same = torch.equal(pooler(features_of(other), views), pooler(features_of(tokens), views))
    assert is_same == ("hierarchical" not in name) == (not ALL[name].reads_tokens)


def test_mean_and_max_are_those_of_real_clips(tokens):
    clips = tokens[:, :, 0]
    average, most = (config.Config().build(DIM)(features_of(tokens)) for config in (mean, greatest))
    torch.testing.assert_close(average[0], (clips[0, 0] + clips[0, 2]) / 2)
    torch.testing.assert_close(average[1], clips[1].mean(dim=0))
    assert torch.equal(most[0], torch.maximum(clips[0, 0], clips[0, 2]))
    below_zero = features_of(-tokens.abs() - 1)
    assert greatest.Config().build(DIM)(below_zero)[0].max() < 0, "padding is no clip of zeros"


def test_two_halves_stand_side_by_side(tokens):
    features = features_of(tokens)
    for name, left in (("mean_cls_token", "mean"), ("attention_cls_token", "attention")):
        pooler = build(name)
        pooled, single, question = pooler(features), build(left), build("cls_token")
        if left == "attention":
            single.across.load_state_dict(pooler.across.state_dict())
        question.across.load_state_dict(pooler.token.state_dict())
        assert pooler.dim == 2 * DIM == pooled.shape[1]
        torch.testing.assert_close(pooled[:, :DIM], single(features))
        torch.testing.assert_close(pooled[:, DIM:], question(features))


def test_attention_starts_as_the_mean_and_can_learn_a_single_clip(tokens):
    torch.manual_seed(0)
    pooler = attention.Config(hidden_dim=8).build(DIM)
    torch.testing.assert_close(pooler(features_of(tokens)), mean.Config().build(DIM)(features_of(tokens)))
    features = features_of(tokens, torch.ones(3, 3, dtype=torch.bool))
    optimiser = torch.optim.Adam(pooler.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (pooler(features) - tokens[:, 1, 0]).square().sum().backward()
        optimiser.step()
    assert pooler.clip_weights(features)[:, 1].min() > 0.9


def test_attention_by_hand(tokens):
    def weighed(scorer, members):
        hidden = [scorer.content(each).tanh() * scorer.gate(each).sigmoid() for each in members]
        chances = torch.stack([scorer.score.weight[0] @ each for each in hidden]).exp()
        return sum(chance * each for chance, each in zip(chances / chances.sum(), members, strict=True))

    plain, hierarchical = build("attention"), build("hierarchical attention")
    expected = weighed(plain.across, tokens[0, [0, 2], 0])
    torch.testing.assert_close(plain(features_of(tokens))[0], expected)
    clips = [weighed(hierarchical.within, clip) for clip in tokens[0, [0, 2]]]
    expected = weighed(hierarchical.across, clips)
    torch.testing.assert_close(hierarchical(features_of(tokens))[0], expected)


def test_a_learned_token_looks_as_multihead_attention_does(tokens):
    """torch's module with the same matrices, asked with the token."""
    pooler = build("cls_token").across
    with torch.no_grad():
        oracle = torch.nn.MultiheadAttention(DIM, 2, batch_first=True)
        oracle.in_proj_weight.copy_(torch.cat([torch.eye(DIM), pooler.keys.weight, pooler.values.weight]))
        oracle.in_proj_bias.copy_(torch.cat([torch.zeros(DIM), pooler.keys.bias, pooler.values.bias]))
        oracle.out_proj.load_state_dict(pooler.project.state_dict())
        clips, mask = tokens[:2, :, 0], MASK[:2]
        normed = pooler.norm(clips)
        question = pooler.query.reshape(1, 1, DIM).expand(2, 1, DIM)
        seen, weights = oracle(question, normed, normed, key_padding_mask=~mask)
        mine = pooler(clips, mask)
    torch.testing.assert_close(mine, (seen[:, 0], weights[:, 0]))


def test_the_transformer_is_torchs_on_the_same_set(tokens):
    pooler = build("transformer")
    layer = torch.nn.TransformerEncoderLayer(DIM, 2, 4 * DIM, 0.0, "gelu", batch_first=True, norm_first=True)
    with torch.no_grad():
        members = torch.cat([pooler.token.expand(2, 1, DIM), tokens[:2, :, 0]], dim=1)
        mask = torch.cat([torch.ones(2, 1, dtype=torch.bool), MASK[:2]], dim=1)
        for block in pooler.blocks:
            given = {
                "self_attn.in_proj_weight": block.qkv.weight,
                "self_attn.in_proj_bias": block.qkv.bias,
                "self_attn.out_proj.weight": block.project.weight,
                "self_attn.out_proj.bias": block.project.bias,
            }
            names = {"mlp.0": "linear1", "mlp.2": "linear2", "norm1": "norm1", "norm2": "norm2"}
            given |= {
                f"{theirs}.{kind}": block.get_parameter(f"{mine}.{kind}")
                for mine, theirs in names.items()
                for kind in ("weight", "bias")
            }
            layer.load_state_dict(given)
            members = layer(members, src_key_padding_mask=~mask)
        expected = pooler.norm(members[:, 0])
    torch.testing.assert_close(pooler(features_of(tokens))[:2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_weights_of_clips_are_shares_of_the_real_ones(name, tokens, views):
    pooler = build(name)
    assert pooler.weighs_clips == (name in WEIGHING)
    if not pooler.weighs_clips:
        with pytest.raises(NotImplementedError):
            pooler.clip_weights(features_of(tokens), views)
        return
    weights = pooler.clip_weights(features_of(tokens), views)
    assert weights.sum(dim=1).tolist() == pytest.approx([1, 1, 0])
    assert weights[~MASK].eq(0).all() and weights[MASK].gt(0).all()


def test_bf16_clips_have_fp32_weights(tokens):
    for name in WEIGHING:
        pooler = build(name).bfloat16()
        features = features_of(tokens.bfloat16())
        views = torch.zeros(3, 3, 2, dtype=torch.bfloat16)
        assert pooler.clip_weights(features, views).dtype == torch.float32
        assert pooler(features, views).dtype == torch.bfloat16


@pytest.mark.parametrize("name", ALL)
def test_under_autocast_pooling_is_close(name, tokens, views):
    pooler = build(name)
    exact = pooler(features_of(tokens), views)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pooler(features_of(tokens.bfloat16()), views)
    torch.testing.assert_close(rounded.float(), exact, rtol=0.2, atol=0.2)


def test_a_view_is_nothing_at_first_and_an_unknown_angle_is_no_angle(views):
    embedding = ViewEmbedding(DIM)
    assert embedding(views).eq(0).all()
    torch.nn.init.normal_(embedding.map.weight)
    torch.nn.init.normal_(embedding.map.bias)
    said = embedding(torch.tensor([[[0.0, 0], [torch.nan, 0], [torch.nan, torch.nan], [360, 0], [30, -30]]]))[
        0
    ]
    torch.testing.assert_close(said[0], said[3], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(said[2], embedding.map.bias)
    pairs = [(one, other) for one in (0, 1, 2, 4) for other in (0, 1, 2, 4) if one < other]
    assert all((said[one] - said[other]).abs().max() > 0.1 for one, other in pairs)


def test_views_count_where_they_are_asked_for_and_have_to_be_there(tokens, views):
    pooler = build("mean of views")
    assert not torch.equal(pooler(features_of(tokens), views), pooler(features_of(tokens), views + 20))
    with pytest.raises(ValueError, match="the field `view`, which comes with view_embedding"):
        pooler(features_of(tokens))
    assert pooler.views is not None and ALL["mean of views"].needed_fields() == {"view": {}}
    assert build("mean").views is None and mean.Config().needed_fields() == {}


def test_left_out_views_are_real_clips_and_one_stays():
    mask = torch.arange(4) < torch.tensor([[4], [2], [1], [0]])
    pooler = mean.Config(view_dropout=0.5).build(DIM)
    torch.manual_seed(0)
    shown = torch.stack([pooler._shown(mask) for _ in range(400)])
    assert not (shown & ~mask).any()
    assert shown.any(dim=2)[:, :3].all() and shown[:, 2, 0].all()
    assert shown[:, 0].float().mean() == pytest.approx(0.5 + 0.5**4 / 4, abs=0.03)
    assert torch.equal(pooler.eval()._shown(mask), mask)
    assert torch.equal(mean.Config().build(DIM)._shown(mask), mask)


def test_a_study_is_pooled_without_what_is_left_out(tokens):
    pooler = mean.Config(view_dropout=0.9).build(DIM)
    torch.manual_seed(0)
    pooled = pooler(features_of(tokens))
    clips = tokens[1, :, 0]
    subsets = [clips[list(kept)].mean(0) for kept in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))]
    assert any(torch.allclose(pooled[1], each) for each in subsets)
    assert pooled[2].eq(0).all()


@pytest.mark.parametrize("token_pooling", ["mean", "attention"])
def test_the_aggregator_reads_places_and_no_padding(token_pooling, tokens):
    torch.manual_seed(0)
    config = aggregator.Config(token_pooling=token_pooling, token_heads=2, max_clips=8, **_AS_THERE)
    pooler = config.build(DIM)
    torch.nn.init.normal_(pooler.places)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    tokens.requires_grad_()
    pooled = pooler(features_of(tokens, mask))
    pooled.square().sum().backward()
    assert pooled.shape == (3, 8) and pooled[2].eq(0).all()
    assert all(each.grad.isfinite().all() for each in pooler.parameters())
    assert tokens.grad[0, 2].eq(0).all() and tokens.grad[1].ne(0).any()
    alone = pooler(features_of(tokens[:1, :2], torch.ones(1, 2, dtype=torch.bool)))
    assert (alone - pooled[:1]).abs().max() < 1e-6
    mixed = pooler(features_of(tokens[:, [1, 0, 2]], mask))
    assert (mixed - pooled)[1].abs().max() > 1e-3
    with pytest.raises(ConfigError, match="places for 8"):
        pooler(features_of(tokens.repeat(1, 3, 1, 1), mask.repeat(1, 3)))


@pytest.mark.parametrize("name", ["cls_token", "mean_cls_token", "attention_cls_token", "transformer"])
def test_heads_that_do_not_divide_the_width_are_refused(name):
    with pytest.raises(ConfigError, match="num_attention_heads 4 does not divide the 6"):
        ALL[name].model_copy(update={"num_attention_heads": 4}).build(DIM)
