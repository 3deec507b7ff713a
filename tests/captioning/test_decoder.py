"""The decoder over a study's clips: what must not matter does not."""

import pytest
import torch

from deepcoro.features import Features, VideoFeatures
from tests.captioning.words import asked, make_batch, make_features, make_objective

ROWS = [asked("severe stenosis", "the lad: mild", chance=0.2), asked("left rca", chance=0.7)]


def loss_of(objective, features, rows=ROWS):
    return objective(features, make_batch(rows))["sum"]


def clips_of(features: Features, tokens: torch.Tensor, mask: torch.Tensor) -> Features:
    return Features(clips=VideoFeatures(tokens, mask, has_class_token=False))


def test_the_order_of_clips_does_not_matter():
    objective, features = make_objective(), make_features([3, 2])
    tokens, mask = features.clips.tokens, features.clips.clip_mask
    order = torch.tensor([2, 0, 1])
    turned = clips_of(features, tokens[:, order], mask[:, order])
    torch.testing.assert_close(
        loss_of(objective, turned), loss_of(objective, features), rtol=1e-12, atol=1e-12
    )
    other = clips_of(features, tokens.flip(0), mask)
    assert abs(loss_of(objective, other) - loss_of(objective, features)) > 1e-3, "what they show does"


@pytest.mark.parametrize("counts", [[3, 2], [1, 1], [2, 0], [0, 0]])
def test_padded_clips_change_nothing_whatever_they_hold(counts):
    objective = make_objective()
    narrow, wide = make_features(counts, max(counts + [1])), make_features(counts, 5)
    dirty = wide.clips.tokens.clone()
    if max(counts):
        dirty[(wide.clips.clip_mask | ~wide.clips.clip_mask.any(1, keepdim=True)).logical_not()] = 1e6
    expected = loss_of(objective, narrow)
    assert expected.isfinite().all()
    for features in (wide, clips_of(wide, dirty, wide.clips.clip_mask)):
        torch.testing.assert_close(loss_of(objective, features), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tie_weights", [True, False])
def test_with_tied_weights_the_output_layer_is_the_table_of_words(tie_weights):
    objective = make_objective(tie_weights=tie_weights)
    names = {name for name, _ in objective.named_parameters() if "head" in name}
    assert names == (set() if tie_weights else {"decoder.head.weight"})
    loss_of(objective, make_features([2, 1])).backward()
    assert all(each.grad is not None for each in objective.parameters())


def test_each_word_is_predicted_from_those_before_it_alone():
    objective, features = make_objective(), make_features([2])
    reading = objective.decoder.read(features.clips.tokens, features.clips.clip_mask)
    ids = torch.tensor([[13, 5, 7, 8]])
    early = objective.decoder.logits(ids[:, :2], reading)
    changed = make_batch([asked("severe mild")])["caption"]
    assert not torch.equal(early, objective.decoder.logits(ids, reading))
    # the first two predictions of the packed pass see the same two tokens, whatever follows
    same = objective.decoder.logits(changed["input_ids"][:, :2], reading)
    torch.testing.assert_close(same, early, rtol=1e-12, atol=1e-12)
