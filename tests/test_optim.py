"""Parameter groups and schedule."""

import pytest
import torch
from torch import nn

from deepcoro.optim import build_optimizer, lr_factor, lr_of_groups, lr_of_places, parameter_groups
from deepcoro.run_config import Optim
from deepcoro.towers.video_mvit import VideoMViT


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        text = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        video = nn.Sequential(nn.Conv3d(3, 4, 1), nn.LayerNorm(4), nn.Linear(4, 4))
        self.towers = nn.ModuleDict({"text": text, "video": video})
        self.logit_scale = nn.Parameter(torch.zeros(1))


def names_by_group(model: nn.Module, optim: Optim) -> dict[str, set[str]]:
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, optim)
    return {group["name"]: {name_of[id(parameter)] for parameter in group["params"]} for group in groups}


def test_every_trainable_parameter_is_in_exactly_one_group_and_tables_norms_and_biases_are_not_decayed() -> (
    None
):
    model = Towers()
    groups = names_by_group(model, Optim(weight_decay=0.1))
    assert groups["text"] == {"towers.text.1.weight"}
    assert groups["default"] == {"towers.video.0.weight", "towers.video.2.weight"}
    assert groups["text_no_decay"] == {
        "towers.text.0.weight",
        "towers.text.1.bias",
        "towers.text.2.weight",
        "towers.text.2.bias",
    }
    assert "logit_scale" in groups["default_no_decay"]
    grouped = [name for names in groups.values() for name in names]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    decays = {
        group["name"]: group["weight_decay"] for group in parameter_groups(model, Optim(weight_decay=0.1))
    }
    assert decays == {"text": 0.1, "default": 0.1, "text_no_decay": 0.0, "default_no_decay": 0.0}


def test_frozen_parameters_are_in_no_group_and_empty_groups_are_dropped() -> None:
    model = Towers()
    model.towers["text"].requires_grad_(False)
    assert set(names_by_group(model, Optim())) == {"default", "default_no_decay"}


def test_the_text_tower_has_its_own_peak_learning_rate() -> None:
    optim = Optim(lr=1e-3, text_lr=1e-5)
    optimizer = build_optimizer(Towers(), optim)
    peaks = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert peaks == {"default": 1e-3, "default_no_decay": 1e-3, "text": 1e-5, "text_no_decay": 1e-5}
    assert lr_of_groups(10, 10, Optim(final_lr_fraction=1), optimizer.param_groups) == peaks


class Layers(nn.Sequential):
    """A tower whose parts are its layers, the first at the bottom."""

    def parameter_layers(self) -> dict[str, int]:
        return {name: int(name[0]) for name, _ in self.named_parameters()}


def test_layer_decay_lowers_the_learning_rate_of_each_layer_of_its_tower_by_its_depth() -> None:
    model = Towers()
    model.towers["video"] = Layers(*model.towers["video"])
    optim = Optim(lr=1.0, text_lr=0.1, layer_decay=0.5, weight_decay=0.1)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build_optimizer(model, optim).param_groups
    lr_of = {name_of[id(each)]: group["lr"] for group in groups for each in group["params"]}
    assert lr_of == {
        "towers.video.0.weight": 0.25,
        "towers.video.0.bias": 0.25,
        "towers.video.1.weight": 0.5,
        "towers.video.1.bias": 0.5,
        "towers.video.2.weight": 1.0,
        "towers.video.2.bias": 1.0,
        "logit_scale": 1.0,
    } | {name: 0.1 for name in lr_of if name.startswith("towers.text.")}
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert decays["video/layer_00"] == 0.1
    assert decays["video/layer_00_no_decay"] == 0.0
    assert "video/layer_01" not in decays
    halfway = lr_of_groups(50, 100, Optim(warmup_steps=0), groups)
    assert halfway["video/layer_00"] == pytest.approx(0.125)
    assert halfway["default_no_decay"] == pytest.approx(0.5)


def test_the_text_tower_has_a_layer_decay_of_its_own() -> None:
    model = Towers()
    model.towers["text"] = Layers(*model.towers["text"])
    groups = parameter_groups(model, Optim(lr=1.0, text_lr=0.1, text_layer_decay=0.5))
    peaks = {group["name"]: group["peak_lr"] for group in groups}
    assert peaks["text/layer_00_no_decay"] == pytest.approx(0.025)
    assert peaks["text/layer_02_no_decay"] == pytest.approx(0.1)
    assert peaks["default"] == 1.0


class Multitask(Towers):
    def __init__(self) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict({"reports": nn.Linear(4, 4), "contrastive": nn.Linear(4, 4)})


def test_an_objective_with_a_learning_rate_of_its_own_is_a_group_of_its_name() -> None:
    groups = parameter_groups(Multitask(), Optim(lr=1.0, weight_decay=0.1), {"reports": 0.5})
    found = {group["name"]: (group["peak_lr"], group["weight_decay"]) for group in groups}
    assert found["reports"] == (0.5, 0.1) and found["reports_no_decay"] == (0.5, 0.0)
    assert sum(len(group["params"]) for group in groups if group["place"] == "reports") == 2
    lr = lr_of_groups(0, 10, Optim(warmup_steps=0), groups, {"reports": 0.25})
    assert lr_of_places(lr) == {"default": 1.0, "text": 1.0, "reports": 0.125}


class Heads(nn.Module):
    """Two heads and something that both share."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"cto": nn.Linear(4, 1), "lvef": nn.Linear(4, 1)})
        self.shared = nn.Linear(4, 4)


def test_parts_of_an_objective_have_learning_rates_and_decays_of_their_own_and_follow_its_schedule() -> None:
    model = Towers()
    model.objectives = nn.ModuleDict({"probe": Heads()})
    own = {
        "probe.heads.cto": {"lr": 0.5},
        "probe": {"weight_decay": 0.0},
        "probe.heads.lvef": {"weight_decay": 0.3},
    }
    optim = Optim(lr=1.0, weight_decay=0.1, warmup_steps=0)
    groups = parameter_groups(model, optim, {"probe": 0.25}, own_groups=own)
    found = {group["name"]: (group["peak_lr"], group["weight_decay"]) for group in groups}
    assert {name: found[name] for name in found if name.startswith("probe")} == {
        "probe": (0.25, 0.0),
        "probe_no_decay": (0.25, 0.0),
        "probe/cto": (0.5, 0.0),
        "probe/cto_no_decay": (0.5, 0.0),
        "probe/lvef": (0.25, 0.3),
        "probe/lvef_no_decay": (0.25, 0.0),
    }
    lr = lr_of_groups(0, 10, optim, groups, {"probe": 0.5})
    assert lr_of_places(lr) == {
        "default": 1.0,
        "text": 1.0,
        "probe": 0.125,
        "probe/cto": 0.25,
        "probe/lvef": 0.125,
    }


def test_what_began_to_train_later_is_a_group_apart_with_the_same_learning_rate() -> None:
    groups = parameter_groups(
        Towers(), Optim(lr=1.0, text_lr=0.1), since={"towers.text.1.weight": 30, "towers.text.1.bias": 30}
    )
    found = {group["name"]: group["since"] for group in groups}
    assert found == {
        "default": 0,
        "default_no_decay": 0,
        "text@30": 30,
        "text_no_decay": 0,
        "text_no_decay@30": 30,
    }
    lr = lr_of_groups(0, 10, Optim(warmup_steps=0), groups)
    assert lr_of_places(lr) == {"default": 1.0, "text": 0.1}


def test_warm_up_is_linear_to_the_peak_and_the_cosine_ends_at_its_floor() -> None:
    optim = Optim(warmup_steps=4, final_lr_fraction=0.1)
    factors = [lr_factor(step, 20, optim) for step in range(21)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4] == 1.0
    assert factors[12] == pytest.approx(0.55)
    assert factors[20] == pytest.approx(0.1)
    assert all(later <= earlier for earlier, later in zip(factors[4:], factors[5:], strict=False))


def test_without_warm_up_steps_a_fraction_of_the_run_warms_up() -> None:
    assert lr_factor(0, 100, Optim(warmup_fraction=0.1)) == pytest.approx(0.1)
    assert lr_factor(9, 100, Optim(warmup_fraction=0.1)) == 1.0
    assert lr_factor(0, 100, Optim(warmup_fraction=0.0)) == 1.0


def test_the_video_encoder_decays_its_matrices_and_filters_and_no_table_norm_bias_or_token() -> None:
    groups = names_by_group(VideoMViT.from_variant("tiny", frames=4, size_px=32), Optim())
    kept = {name for name in groups["default_no_decay"] if not name.endswith("bias")}
    assert {name.rpartition(".")[2] for name in kept} == {
        "rel_pos_t",
        "rel_pos_h",
        "rel_pos_w",
        "weight",
        "class_token",
    }
    assert all("norm" in name for name in kept if name.endswith("weight"))
    assert {"blocks.0.attn.pool_q.pool.weight", "blocks.0.mlp.0.weight", "blocks.0.mlp.3.weight"} <= groups[
        "default"
    ]


def step_of_random_gradients(optimizer: torch.optim.Optimizer, step: int) -> None:
    torch.manual_seed(step)
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] / (step + 1)
        for parameter in group["params"]:
            parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def test_the_fused_step_is_the_plain_one() -> None:
    optim = Optim(lr=1e-2, text_lr=1e-3, weight_decay=0.1)
    torch.manual_seed(0)
    models = Towers(), Towers()
    models[1].load_state_dict(models[0].state_dict())
    fused = build_optimizer(models[0], optim)
    plain = torch.optim.AdamW(
        parameter_groups(models[1], optim), betas=optim.betas, eps=optim.eps, foreach=False, fused=False
    )
    for step in range(30):
        for optimizer in (fused, plain):
            step_of_random_gradients(optimizer, step)
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-6, atol=1e-7)
