"""The captioning objective against a plain decoder loss, over ranks, and on what is not there."""

import pytest
import torch
from torch.nn import functional

from deepcoro.config import ConfigError
from deepcoro.features import Features, Surroundings
from deepcoro.objectives.captioning import Config
from deepcoro.run_config import RunConfig
from tests.captioning.words import (
    VIDEO_DIM,
    asked,
    make_batch,
    make_features,
    make_field,
    make_objective,
    make_tokenizer,
)
from tests.ranks import Ranks

ROWS = [
    asked("severe stenosis of", "the lad: mild", chance=0.2),
    asked("left rca", chance=0.7),
    None,
    asked("right", "lad: severe", chance=0.4),
]
CLIPS = [2, 1, 1, 3]


def plain_loss(objective, features, rows, parallel_fraction):
    """Each sequence alone through the decoder, unpacked, with all its logits; -1 = a word that is not to be predicted."""
    decoder, words, total, hits, count = objective.decoder, objective.words, 0.0, 0, 0
    field = make_field()
    weight = decoder.words.weight[: words.num_words] if decoder.head is None else decoder.head.weight
    for row, asked_of_row in enumerate(rows):
        if asked_of_row is None:
            continue
        mask = features.clips.clip_mask[row]
        clips = features.clips.tokens[row : row + 1, mask]
        reading = decoder.read(clips, mask[mask][None])
        for exchange, chance in zip(*asked_of_row, strict=True):
            tokens, num_given = field._tokens(exchange)
            ids = torch.tensor(tokens[:-1])
            seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
            if chance < parallel_fraction:
                ids[num_given:] = words.mask
                seen = torch.ones_like(seen)
            states = decoder._states(ids[None], torch.arange(len(ids))[None], seen, reading, None)[0]
            logits, wanted = (states @ weight.T)[num_given - 1 :], torch.tensor(tokens[num_given:])
            total += functional.cross_entropy(logits, wanted, reduction="sum")
            hits += int((logits.argmax(1) == wanted).sum())
            count += len(wanted)
    return total, hits, count


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_packed_loss_is_that_of_every_sequence_alone(fraction, tie_weights):
    objective = make_objective(parallel_fraction=fraction, tie_weights=tie_weights)
    features, batch = make_features(CLIPS), make_batch(ROWS)
    features.clips.tokens.requires_grad_()
    result = objective(features, batch)
    total, hits, count = plain_loss(objective, features, ROWS, fraction)
    torch.testing.assert_close(result["sum"], total.reshape(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(result["accuracy"], torch.tensor([hits / count]).double())
    assert objective.count(batch).tolist() == [count]
    leaves = [*objective.parameters(), features.clips.tokens]
    mine, theirs = (torch.autograd.grad(each.sum(), leaves) for each in (result["sum"], total))
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_more_padding_changes_nothing():
    objective, features, batch = make_objective(), make_features(CLIPS), make_batch(ROWS)
    fill = {"targets": -100, "chance": 1.0}
    wider = {
        name: functional.pad(each, (0, 3), value=fill.get(name, 0)) for name, each in batch["caption"].items()
    }
    got = objective(features, batch | {"caption": wider})
    torch.testing.assert_close(got, objective(features, batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rows", [[None], [asked("")], [None, None, asked("")]])
def test_nothing_to_write_is_a_zero_that_every_parameter_hears_of(rows):
    objective, batch = make_objective(tie_weights=False), make_batch(rows)
    share = objective(make_features([1] * len(rows)), batch)["sum"]
    share.backward()
    assert share.item() == 0 and objective.count(batch).item() == 0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


def test_a_row_that_could_not_be_read_is_not_learnt_from():
    objective, features, batch = make_objective(), make_features(CLIPS), make_batch(ROWS)
    valid = batch["valid"].clone()
    valid[3] = False
    without = make_batch([*ROWS[:3], None])
    got, expected = objective(features, batch | {"valid": valid}), objective(features, without)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert objective.count(batch | {"valid": valid}) == objective.count(without)


def loss_and_gradients(rank: int, rows_of_rank: list[list[int]]) -> list[torch.Tensor]:
    """Of a rank's rows, times ranks / global count and averaged over ranks, as the training step does."""
    objective = make_objective()
    mine = rows_of_rank[rank]
    everything = make_features(CLIPS)
    features = Features(
        clips=type(everything.clips)(everything.clips.tokens[mine], everything.clips.clip_mask[mine], False)
    )
    batch = make_batch([ROWS[row] for row in mine])
    share, count = objective(features, batch)["sum"], objective.count(batch)
    share.backward()
    found = [share.detach(), *(each.grad for each in objective.parameters())]
    if len(rows_of_rank) > 1:
        for value in (count, *found):
            torch.distributed.all_reduce(value)
    return [each / count for each in found]


def test_two_ranks_have_the_loss_and_gradients_of_one(two_ranks: Ranks):
    alone = loss_and_gradients(0, [[0, 1, 2, 3]])
    for split in ([[0], [1, 2, 3]], [[2], [3, 0, 1]]):
        for rank in two_ranks.run(loss_and_gradients, split):
            torch.testing.assert_close(rank, alone, rtol=1e-10, atol=1e-10)


def test_under_bf16_autocast_the_loss_is_fp32_and_close():
    objective, features, batch = make_objective().float(), make_features(CLIPS), make_batch(ROWS)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.mul_(0.2)
    clips = type(features.clips)(features.clips.tokens.float(), features.clips.clip_mask, False)
    exact = objective(Features(clips=clips), batch)["sum"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = objective(Features(clips=clips), batch)["sum"]
        tokens = objective.evaluate(Features(clips=clips), batch)["tokens"]
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)
    assert tokens.dtype == torch.int64


@pytest.mark.parametrize("settings", [{}, {"max_new_tokens": 4}, {"method": "beam", "num_beams": 2}])
def test_captions_are_as_wide_in_every_batch(settings):
    objective = make_objective(generation=settings)
    widths = {
        objective.evaluate(make_features(clips), make_batch([None] * len(clips)))["tokens"].shape
        for clips in ([1, 2], [1, 3])
    }
    assert widths == {(2, settings.get("max_new_tokens", 9))}


def test_it_learns_to_write_what_it_sees():
    """Two studies, two texts, the order of words included."""
    objective, features = make_objective(), make_features([1, 1])
    rows = [asked("severe stenosis of the lad", "lad: severe"), asked("right rca")]
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (objective(features, make_batch(rows))["sum"] / 10).backward()
        optimizer.step()
    batch = make_batch(rows)
    tokens = objective.evaluate(features, batch)["tokens"]
    text = make_tokenizer().batch_decode(tokens, skip_special_tokens=True)
    assert text == ["severe stenosis of the lad", "right rca"]
    finding = objective.write(features, [0, 1], objective.words.prefix("finding", "lad"))
    assert make_tokenizer().decode(finding[0], skip_special_tokens=True) == "severe"


def test_the_field_comes_with_the_objective_and_a_run_without_it_is_told_its_name():
    config = RunConfig.model_validate({"objectives": {"captioning": {}}})
    assert config.data.fields["caption"].max_tokens == 128
    given = {"objectives": {"c": {"type": "captioning"}}, "data": {"fields": {"caption": {"max_tokens": 9}}}}
    assert RunConfig.model_validate(given).data.fields["caption"].max_tokens == 9
    assert "caption" not in RunConfig().data.fields
    with pytest.raises(ConfigError, match="data.fields.caption"):
        Config().build(Surroundings(VIDEO_DIM, 8, make_tokenizer(), frames=4, size_px=32))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match="decoder_heads 3"):
        make_objective(decoder_heads=3)
