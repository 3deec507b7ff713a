"""Heads against their loss written out, over ranks and micro-batches, on what is not there; and what their settings refuse."""

import pytest
import torch

from deepcoro.config import ConfigError, DataError, parse
from deepcoro.features import Features, Surroundings, VideoFeatures
from deepcoro.heads import OrdinalHead
from deepcoro.objectives.linear_probing import Config
from tests.objectives.over_ranks import loss_and_gradients
from tests.objectives.probing import (
    KINDS,
    loss_by_hand,
    make_batch,
    make_features,
    make_objective,
    rows_of,
)
from tests.ranks import Ranks

ROWS = 11


def names_in_order(objective):
    return [name for group in objective.groups for name in group.names]


def test_loss_and_gradients_are_those_written_out_head_by_head():
    objective, features = make_objective(), make_features(ROWS)
    batch, config = make_batch(objective, features), Config.model_validate(KINDS)
    batch["valid"][4] = False
    features.clips.tokens.requires_grad_()
    features = Features(study=features.clips.aggregate(), clips=features.clips)
    total, counts = loss_by_hand(objective, config, features, batch)
    count = objective.count(batch)
    assert dict(zip(names_in_order(objective), count.tolist(), strict=True)) == counts
    loss = (objective(features, batch)["sum"] / count.clamp(min=1)).sum()
    torch.testing.assert_close(loss, total, rtol=1e-10, atol=0)
    leaves = [*objective.parameters(), features.clips.tokens]
    mine, theirs = (torch.autograd.grad(each, leaves, retain_graph=True) for each in (loss, total))
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_parts_are_named_and_weighed():
    objective = make_objective()
    assert objective.parts["cto_loss"] == 3 and objective.parts["grade_loss"] == 1
    assert list(objective.parts) == [f"{name}_loss" for name in names_in_order(objective)]
    assert objective.reads == {"study", "clips"}


def test_what_a_head_says_is_a_probability_or_the_number():
    objective, features = make_objective(), make_features(ROWS)
    said = objective.evaluate(features, make_batch(objective, features))
    assert {name: tuple(each.shape) for name, each in said.items()} == {
        f"{name}/prediction": (ROWS, size) for name, size in KINDS["head_structure"].items()
    }
    for name in ("grade", "side"):
        torch.testing.assert_close(said[f"{name}/prediction"].sum(1), torch.ones(ROWS).double())
    heads, study = objective.heads, features.study
    torch.testing.assert_close(said["cto/prediction"], heads["cto"].linear(study).sigmoid())
    torch.testing.assert_close(said["lvef/prediction"], heads["lvef"].linear(study))
    mask = features.clips.clip_mask[2]
    of_clips = heads["film"].linear(features.clips.tokens[2, mask].mean(1)).sigmoid()
    torch.testing.assert_close(said["film/prediction"][2], of_clips.mean(0))


def test_labels_are_not_read_to_predict():
    objective, features = make_objective(), make_features(3)
    batch = make_batch(objective, features)
    del batch["labels"]
    assert len(objective.evaluate(features, batch)) == len(KINDS["head_structure"])


def test_padded_clips_change_nothing():
    objective, features = make_objective(), make_features(ROWS)
    batch = make_batch(objective, features)
    wide = torch.cat([features.clips.tokens, torch.full((ROWS, 2, 2, 6), torch.nan).double()], dim=1)
    mask = torch.cat([features.clips.clip_mask, torch.zeros(ROWS, 2, dtype=torch.bool)], dim=1)
    padded = Features(study=features.study, clips=VideoFeatures(wide.nan_to_num(7), mask, False))
    wider = batch | {"clip_mask": mask}
    torch.testing.assert_close(objective(padded, wider), objective(features, batch))
    torch.testing.assert_close(objective.evaluate(padded, wider), objective.evaluate(features, batch))


def test_a_head_without_any_label_is_a_zero_that_its_parameters_hear_of():
    objective, features = make_objective(), make_features(ROWS)
    batch = make_batch(objective, features)
    batch["labels"]["grade"] = torch.full((ROWS,), torch.nan)
    place = names_in_order(objective).index("grade")
    share = objective(features, batch)["sum"]
    share.sum().backward()
    assert share[place] == 0 and objective.count(batch)[place] == 0
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any() != name.startswith("heads.grade."), name


def test_a_row_that_could_not_be_read_or_has_no_clip_is_not_learnt_from():
    objective, features = make_objective(), make_features(ROWS)
    batch = make_batch(objective, features, missing=0.0)
    mask = batch["clip_mask"].clone()
    mask[3] = False
    valid = batch["valid"].clone()
    valid[5] = False
    blank = features.clips.tokens.clone()
    blank[3] = 0
    clips = VideoFeatures(blank, mask, False)
    got = objective(
        Features(study=clips.aggregate(), clips=clips), batch | {"clip_mask": mask, "valid": valid}
    )
    kept = rows_of(features, batch, [row for row in range(ROWS) if row not in (3, 5)])
    torch.testing.assert_close(got["sum"], objective(*kept)["sum"])
    assert objective.count(batch | {"clip_mask": mask, "valid": valid}).tolist() == [ROWS - 2] * 7


def shares(rank: int, rows_of_rank: list[list[int]]) -> dict[str, torch.Tensor]:
    objective, features = make_objective(), make_features(ROWS)
    batch = make_batch(objective, features)
    mine = rows_of(features, batch, rows_of_rank[rank])
    return loss_and_gradients(objective, *mine, world_size=len(rows_of_rank))


def test_two_ranks_have_the_loss_and_gradients_of_one(two_ranks: Ranks):
    alone = shares(0, [list(range(ROWS))])
    for split in ([[0, 1], list(range(2, ROWS))], [[10, 3, 5, 7], [0, 1, 2, 4, 6, 8, 9]]):
        for rank in two_ranks.run(shares, split):
            torch.testing.assert_close(rank, alone, rtol=1e-10, atol=1e-10)


def test_under_bf16_autocast_heads_and_losses_stay_fp32():
    objective, features = make_objective(dtype=torch.float32), make_features(ROWS, dtype=torch.bfloat16)
    batch = make_batch(objective, features)
    with torch.autocast("cpu", torch.bfloat16):
        got, said = objective(features, batch)["sum"], objective.evaluate(features, batch)
    torch.testing.assert_close(got, objective(features, batch)["sum"], rtol=0, atol=0)
    assert got.dtype == torch.float32 and {each.dtype for each in said.values()} == {torch.float32}


def test_dropout_is_there_in_training_only():
    settings = {"head_structure": {"a": 1}, "loss_structure": {"a": "bce"}, "head_dropout": {"a": 0.5}}
    objective, features = make_objective(settings), make_features(ROWS)
    batch = make_batch(objective, features)
    first, second = objective(features, batch)["sum"], objective(features, batch)["sum"]
    assert not torch.equal(first, second)
    objective.eval()
    torch.testing.assert_close(objective(features, batch), objective(features, batch))


def test_an_ordinal_head_starts_with_equal_shares_and_keeps_its_thresholds_in_order():
    head = OrdinalHead(4, 5, 0.0)
    said = head(torch.zeros(1, 4))
    shares = (1 - said.sigmoid()).diff(prepend=torch.zeros(1, 1), append=torch.ones(1, 1))
    torch.testing.assert_close(shares, torch.full((1, 5), 0.2), rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        head.thresholds.fill_(-200)
    assert (head(torch.randn(3, 4)).diff(dim=1) < 0).all()


def counted(settings, **counts):
    beside = Surroundings(4, 8, tokenizer=None, frames=4, size_px=32, label_counts=counts)
    return Config.model_validate(settings).build(beside)


def test_a_head_starts_with_what_is_usual():
    settings = {
        "head_structure": {"cto": 1, "side": 3, "grade": 3, "lvef": 1},
        "loss_structure": {"cto": "bce", "side": "ce", "grade": "ordinal", "lvef": "mse"},
        "head_column": {"grade": "side"},
    }
    objective = counted(
        settings, cto={0.0: 899, 1.0: 99}, side={0.0: 599, 2.0: 399}, lvef={40.0: 10, 60.0: 30}
    )
    for head in objective.heads.values():
        (head.score if hasattr(head, "score") else head.linear).weight.data.zero_()
    features = Features(study=torch.randn(2, 4))
    said = objective.evaluate(features, {"valid": torch.ones(2, dtype=torch.bool)})
    usual = {"cto": [0.1], "side": [600 / 1001, 1 / 1001, 400 / 1001], "lvef": [55.0]}
    for head, column in (("cto", "cto"), ("side", "side"), ("grade", "side"), ("lvef", "lvef")):
        torch.testing.assert_close(
            said[f"{head}/prediction"], torch.tensor([usual[column]] * 2), rtol=1e-3, atol=1e-3
        )
    assert objective.heads["lvef"].unit.item() == pytest.approx(75**0.5)


def test_balanced_classes_weigh_the_same_together():
    settings = {
        "head_structure": {"cto": 1, "side": 3},
        "loss_structure": {"cto": "bce", "side": "ce"},
        "class_weights": {"*": "balanced"},
    }
    objective = counted(settings, cto={0.0: 90, 1.0: 10}, side={0.0: 10, 1.0: 20, 2.0: 30})
    assert objective.heads["cto"].class_weights.tolist() == pytest.approx([100 / 180, 5])
    assert objective.heads["side"].class_weights.tolist() == pytest.approx([2, 1, 2 / 3])
    evaluated = counted(settings)
    evaluated.load_state_dict(objective.state_dict())
    assert torch.equal(evaluated.heads["side"].class_weights, objective.heads["side"].class_weights)
    with pytest.raises(
        ConfigError, match=r"class_weights.side is balanced, and the train split has \[1, 0, 1\]"
    ):
        counted(settings, cto={0.0: 90, 1.0: 10}, side={0.0: 1, 2.0: 1})


@pytest.mark.parametrize(("loss", "value"), [("focal", 0.5), ("bce", 2.0), ("bce", -1.0)])
def test_training_labels_that_are_no_class_are_refused(loss, value):
    settings = {"head_structure": {"cto": 1}, "loss_structure": {"cto": loss}}
    with pytest.raises(DataError, match=r"head 'cto' reads the column 'cto'.*split train.*labels_map.cto"):
        parse(Config, settings, "test").refuse_labels("train", {"cto": [0.0, value]})


@pytest.mark.parametrize(("head", "value"), [("yes", 2.0), ("which", 3.0), ("which", 1.5), ("grade", -1.0)])
def test_labels_of_an_evaluated_split_that_are_no_class_are_refused_by_head_column_and_value(head, value):
    settings = {
        "head_structure": {"yes": 1, "which": 3, "grade": 4, "lvef": 1},
        "loss_structure": {"yes": "focal", "which": "ce", "grade": "ordinal", "lvef": "mae"},
        "head_column": {head: "seen"},
    }
    config = parse(Config, settings, "test")
    with pytest.raises(
        DataError, match=rf"'{head}' .*'seen', .*split test hold \[{value}\].*labels_map.{head}"
    ):
        config.refuse_labels("test", {"seen": [0.0, value], "lvef": [55.5]})
    config.refuse_labels("test", {"yes": [0.0, 0.5, 1.0], "which": [0.0, 2.0], "grade": [3.0]})


def test_heads_learn_what_is_there():
    settings = {
        "head_structure": {"yes": 1, "which": 3},
        "loss_structure": {"yes": "bce", "which": "ordinal"},
    }
    objective, features = make_objective(settings, torch.float32), make_features(40, dtype=torch.float32)
    truth = features.study[:, 0]
    labels = {"yes": (truth > 0).float(), "which": (truth > -0.3).float() + (truth > 0.3).float()}
    batch = make_batch(objective, features) | {"labels": labels}
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        objective(features, batch)["sum"].sum().backward()
        optimizer.step()
    said = objective.evaluate(features, batch)
    assert ((said["yes/prediction"][:, 0] > 0.5) == (labels["yes"] > 0)).float().mean() > 0.95
    assert (said["which/prediction"].argmax(1) == labels["which"]).float().mean() > 0.9


def test_heads_alike_are_computed_together_and_keep_their_own_names():
    settings = {
        "head_structure": {"rca": 1, "lad": 1, "lcx": 1, "side": 2},
        "loss_structure": {"rca": "bce_logit", "lad": "bce", "lcx": "mae", "side": "ce"},
        "head_column": {"rca": "rca_stenosis_binary"},
    }
    objective = make_objective(settings)
    assert [group.names for group in objective.groups] == [("rca", "lad"), ("lcx",), ("side",)]
    assert objective.groups[0].columns == ("rca_stenosis_binary", "lad")
    assert "heads.rca.linear.weight" in objective.state_dict()


def test_what_heads_have_of_their_own_and_need_is_told():
    config = Config.model_validate(
        {
            "head_structure": {"cto": 1, "grade": 3, "binary": 1},
            "loss_structure": {"cto": "bce", "grade": "ordinal", "binary": "bce"},
            "head_column": {"binary": "calcif", "grade": "other"},
            "labels_map": {"binary": {"none": 0, 2: 1}},
            "head_lr": {"cto": 1e-3},
            "head_weight_decay": {"cto": 0.0, "grade": 0.1},
        }
    )
    assert config.own_groups() == {
        "heads.cto": {"lr": 1e-3, "weight_decay": 0.0},
        "heads.grade": {"weight_decay": 0.1},
    }
    assert config.needed_fields() == {
        "labels": {"columns": ["calcif", "cto", "other"], "values": {"calcif": {"none": 0, "2": 1}}}
    }


def test_a_pattern_stands_for_heads_and_a_name_goes_before_it():
    config = Config.model_validate(
        {
            "head_structure": {"rca_cto": 1, "lad_cto": 1, "lad_stenosis": 1},
            "loss_structure": {"rca_cto": "focal", "*_cto": "bce", "*_stenosis": "mae"},
            "head_weights": {"*": 2.0, "*_cto": 3.0},
        }
    )
    kinds = {head: loss.type for head, loss in config.loss_structure.items()}
    assert kinds == {"rca_cto": "focal", "lad_cto": "bce", "lad_stenosis": "mae"}
    assert config.head_weights == {"rca_cto": 3.0, "lad_cto": 3.0, "lad_stenosis": 2.0}


BAD = {
    "head_weights names 'ctoo'; did you mean 'cto'": {"head_weights": {"ctoo": 1.0}},
    "level names '*_cto'; did you mean 'cto'?; heads: cto": {"level": {"*_cto": "clip"}},
    "neither a task nor a loss": {"loss_structure": {}},
    "loss_structure.cto is 'ce', and binary_classification takes one of": {
        "loss_structure": {"cto": "ce"},
        "head_task": {"cto": "binary_classification"},
    },
    "head_structure.cto is 2, and binary_classification has 1 output": {"head_structure": {"cto": 2}},
    "multiclass_classification has 2 classes or more": {"loss_structure": {"cto": "ce"}},
    "ordinal_classification has 3 classes or more": {"loss_structure": {"cto": "ordinal"}},
    "the head has 0 classes": {"loss_structure": {"cto": "mse"}, "class_weights": {"cto": [1.0]}},
    "the head has 2 classes": {"class_weights": {"cto": [1.0]}},
    "labels_map.cto gives": {"labels_map": {"cto": {"a": 0, "b": 2}}},
    "head_lr.cto": {"head_lr": {"cto": 0.0}},
    "head_dropout.cto": {"head_dropout": {"cto": 1.0}},
    "'type' cannot name a head": {"head_structure": {"type": 1}, "loss_structure": {"type": "bce"}},
    "'a.b' cannot name a head": {"head_structure": {"a.b": 1}, "loss_structure": {"a.b": "bce"}},
    "did you mean 'huber'": {"loss_structure": {"cto": "hubert"}},
    "rmse": {"loss_structure": {"cto": "rmse"}},
}


@pytest.mark.parametrize("message", BAD)
def test_settings_that_make_no_sense_are_refused_with_the_head_and_the_remedy(message):
    tree = {"head_structure": {"cto": 1}, "loss_structure": {"cto": "bce"}} | BAD[message]
    with pytest.raises(ConfigError) as told:
        parse(Config, tree, "test")
    assert message in str(told.value)


def test_two_maps_of_one_column_are_refused():
    tree = {
        "head_structure": {"a": 1, "b": 1},
        "head_task": {"a": "binary_classification", "b": "binary_classification"},
        "head_column": {"a": "calcif", "b": "calcif"},
        "labels_map": {"a": {"mild": 0}, "b": {"mild": 1}},
    }
    with pytest.raises(ValueError, match="labels_map.b maps the column 'calcif' otherwise"):
        Config.model_validate(tree).needed_fields()
