"""Whole models of DeepCORO_CLIP, imported, against its own networks: the same numbers of the same films, every tensor answered for."""

import pytest
import torch
import yaml

from deepcoro.config import ConfigError
from deepcoro.features import VideoFeatures
from deepcoro.inference.model import Answerer
from deepcoro.inference.trained import open_trained
from deepcoro.migration.names import NAMES, UNKNOWN, renamed
from deepcoro.migration.old_checkpoint import read_old_checkpoint
from deepcoro.migration.old_model import import_model
from deepcoro.paper.model_card import render_model_card
from deepcoro.poolers import multi_instance
from deepcoro.report import read_inputs
from tests.migration import original
from tests.migration.old_files import (
    CLIP,
    HEADS,
    PROBE,
    clip_checkpoint,
    probe_checkpoint,
    probe_network,
    write_tokenizer,
    written,
)

TEXTS = ["severe stenosis of the mid LAD (~70 %).", "no significant stenosis.", "chronic occlusion, RCA"]
MODES = ["mean", "max", "attention", "cls_token", "mean+cls_token", "attention+cls_token"]


def films(studies=2, clips=3, seed=3):
    """Bytes as our model takes them [clip 1 frame height width], and what the original is given [study clip frame height width 3]."""
    draw = torch.Generator().manual_seed(seed)
    shape = (studies * clips, 1, original.FRAMES, original.SIZE_PX, original.SIZE_PX)
    video = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    given = ((video[:, 0].float() - original.MEAN) / original.STD)[..., None].expand(-1, -1, -1, -1, 3)
    return video, given.unflatten(0, (studies, clips))


def loaded(run_dir):
    trained = open_trained(run_dir)
    model, tokenizer = trained.build()
    return trained.config, tokenizer, model.eval()


def batch_of(video, mask):
    units = torch.arange(len(mask))
    valid = torch.ones(len(mask), dtype=torch.bool)
    return {"video": video, "clip_mask": mask, "valid": valid, "unit": units, "position": units}


@torch.no_grad()
def predictions(model, video, mask):
    said = model(batch_of(video, mask), task="evaluate")
    return {name: said[f"linear_probing/{name}/prediction"] for name in ("cto", "grade", "lvef")}


@torch.no_grad()
def original_predictions(encoder, mil, given):
    said = mil(encoder.tokens(given))
    return {"cto": said["cto"].sigmoid(), "grade": said["grade"].softmax(-1), "lvef": said["lvef"]}


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """Original, its import, and the import's report."""
    folder, (encoder, mil) = tmp_path_factory.mktemp("probe"), probe_network()
    report = import_model(written(folder, probe_checkpoint(encoder, mil), PROBE), folder / "run")
    return encoder, mil, folder, report


def test_heads_say_what_the_original_says(probe):
    encoder, mil, folder, _ = probe
    config, _, model = loaded(folder / "run")
    video, given = films()
    ours = predictions(model, video, torch.ones(2, 3, dtype=torch.bool))
    for name, theirs in original_predictions(encoder, mil, given).items():
        torch.testing.assert_close(ours[name], theirs, atol=1e-5, rtol=1e-4)
    assert ours["cto"][0] != ours["cto"][1]
    assert config.pooler.num_attention_heads == 8  # W31: not the config's six
    assert config.data.fields["video"].preset == "predecessor" and config.precision == "fp32"


def test_an_absent_film_is_a_grey_one_as_there_or_is_masked(probe):
    encoder, mil, folder, _ = probe
    video, given = films()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    absent = given.clone()
    absent[1, 1:] = 0
    counted = predictions(loaded(folder / "run")[2], video[:4], mask)
    for name, theirs in original_predictions(encoder, mil, absent).items():
        torch.testing.assert_close(counted[name], theirs, atol=1e-5, rtol=1e-4)
    old = written(folder, probe_checkpoint(encoder, mil), PROBE, absent_films="masked")
    import_model(old, folder / "masked")
    masked = predictions(loaded(folder / "masked")[2], video[:4], mask)
    theirs = original_predictions(encoder, mil, given[1:, :1])
    for name in masked:
        torch.testing.assert_close(masked[name][1:], theirs[name], atol=1e-5, rtol=1e-4)
    assert (masked["cto"][1] - counted["cto"][1]).abs() > 1e-4


def test_the_report_answers_for_every_tensor(probe):
    encoder, mil, folder, report = probe
    read = read_old_checkpoint(folder / "old.pt")
    model = loaded(folder / "run")[2]
    found = renamed(read.tensors, model.state_dict(), "linear_probing")
    unused = [name for names in found.unused.values() for name in names]
    assert sorted([*found.used.values(), *unused]) == sorted(read.tensors)
    assert UNKNOWN not in found.unused
    assert f"used: {len(found.used)}" in report and f"unused: {len(unused)}" in report
    for word in ("never read", "a softmax does not see", "heads.*.unit: 1", "W20", "W24"):
        assert word in report
    assert all(name in report for name in found.missing if not name.endswith("unit"))
    assert not any(name.startswith("towers") for name in found.missing)


@pytest.mark.parametrize("hierarchical", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_each_way_of_pooling_is_the_original_one(mode, hierarchical):
    encoder, mil = probe_network(mode)
    pooler = multi_instance.Config(
        pooling_mode=mode, hierarchical=hierarchical, embed_dim=original.WIDTH, hidden_dim=16
    ).build(encoder.model.dim)
    tensors = {f"mil_model.{name}": each for name, each in mil.state_dict().items()}
    tensors |= {f"video_encoder.{name}": each for name, each in encoder.state_dict().items()}
    own = {f"pooler.{name}": each for name, each in pooler.state_dict().items()}
    found = renamed(tensors, own, "linear_probing")
    assert found.missing == []
    pooler.load_state_dict(
        {ours[7:]: tensors[theirs].reshape(own[ours].shape) for ours, theirs in found.used.items()}
    )
    tokens = torch.randn(2, 3, 5, encoder.model.dim)
    features = VideoFeatures(tokens, torch.ones(2, 3, dtype=torch.bool), has_class_token=True)
    projected = encoder.proj(tokens)
    with torch.no_grad():
        theirs = mil.pooled(projected if hierarchical else projected.mean(2))
        torch.testing.assert_close(pooler(features), theirs, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=["mean", "attention"])
def clip(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = write_tokenizer(folder / "words", TEXTS)
    video = original.perturbed(original.VideoEncoder(request.param, depth=2), 0)
    text = original.perturbed(original.TextEncoder(len(tokenizer)), 1)
    wrapped = request.param == "mean"
    config = CLIP | {"video_pooling_mode": request.param}
    old = written(folder, clip_checkpoint(video, text, wrapped), config, tokenizer=str(folder / "words"))
    return video, text, folder, import_model(old, folder / "run")


def test_films_and_texts_lie_where_the_original_puts_them(clip):
    video, text, folder, report = clip
    config, tokenizer, model = loaded(folder / "run")
    pixels, given = films()
    words = tokenizer(TEXTS, return_tensors="pt", padding=True)
    ids, mask = words["input_ids"], words["attention_mask"]
    report_of = {"input_ids": ids, "attention_mask": mask}
    unit = torch.nn.functional.normalize
    with torch.no_grad():
        one = model(batch_of(pixels, torch.ones(6, 1, dtype=torch.bool)), task="features")["video"]
        three = model(batch_of(pixels, torch.ones(2, 3, dtype=torch.bool)), task="features")["video"]
        told = model.objectives["contrastive"].embed_text(model.towers["text"](**report_of))
        torch.testing.assert_close(one, unit(video(given.flatten(0, 1)[:, None])), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(three, unit(video(given)), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(told, unit(text(ids, mask)), atol=1e-5, rtol=1e-4)
    assert (told[0] - told[1]).abs().max() > 1e-3
    scale = model.objectives["contrastive"].logit_scale.exp().item()
    assert scale == pytest.approx(1 / 0.0588, rel=1e-4)
    assert "the identity" in report and "missing: 0" in report and UNKNOWN not in report


def test_every_name_of_the_contrastive_network_is_known(clip):
    _, _, folder, _ = clip
    read = read_old_checkpoint(folder / "old.pt")
    found = renamed(read.tensors, loaded(folder / "run")[2].state_dict(), "clip")
    assert list(found.unused.values()) == [["video_encoder.cls_token"]]
    assert len(NAMES["clip"]) > len(NAMES["linear_probing"])


def test_an_imported_run_answers_for_studies_and_is_not_trained_on(probe):
    from deepcoro.command_line import main
    from tests.launch import as_launched

    assert Answerer(probe[2] / "run", device="cpu").answers_for_studies
    with as_launched("ddp"):
        assert main([str(probe[2] / "run" / "config.yaml"), "data.shards=nowhere"]) == 2


def test_the_card_of_an_imported_run_claims_no_training_that_was_not_done_here(probe):
    run_dir = probe[2] / "run"
    card = render_model_card(run_dir, read_inputs(run_dir))
    assert "video tower: video\\_mvit" in card
    assert "from weights that DeepCORO\\_CLIP trained" in card
    assert "- trained: with DeepCORO\\_CLIP; nothing of that is recorded here" in card
    assert "On whom, on what machine and how it was trained" in card
    assert "random weights" not in card
    assert "learning rate" not in card


def refusal(old, run_dir):
    with pytest.raises(ConfigError) as caught:
        import_model(old, run_dir)
    assert not run_dir.exists() and not list(run_dir.parent.glob(f".{run_dir.name}*"))
    return str(caught.value)


def test_what_would_be_another_function_is_refused(tmp_path):
    network = probe_network()
    layout = probe_checkpoint(*network)
    changes = {
        "view classes": {"view_column": "view_class"},
        "aggregator's one vector": {"aggregate_videos_tokens": True},
        "W19": {"use_rope": True},
        "no dataset_mean": {"dataset_mean": None},
        "a config of clip": {"pipeline_project": "DeepCORO_clip"},
        "lacks 2 of": {
            "head_structure": HEADS | {"other": 1},
            "head_task": PROBE["head_task"] | {"other": "regression"},
        },
    }
    for reason, change in changes.items():
        assert reason in refusal(written(tmp_path, layout, PROBE | change), tmp_path / "run"), reason
    del layout["linear_probing"]["video_encoder.proj.1.bias"]
    assert "'pooler.projection.linear.bias'" in refusal(written(tmp_path, layout, PROBE), tmp_path / "run")
    text = original.TextEncoder(8)
    clip_layout = clip_checkpoint(network[0], text)
    said = refusal(written(tmp_path, clip_layout, CLIP, tokenizer=str(tmp_path)), tmp_path / "run")
    assert "--tokenizer" in said
    said = refusal(
        written(tmp_path, clip_layout, CLIP | {"video_pooling_mode": "cls_token"}), tmp_path / "run"
    )
    assert "no counterpart" in said


def test_the_tool_asks_for_what_it_needs(probe, tmp_path, monkeypatch, capsys):
    from tests.tools.command import call_tool

    old = probe[2] / "old.pt"
    code, _, error = call_tool("import_checkpoint", (old,), monkeypatch, capsys)
    assert code == 2 and "nothing to write" in error
    code, _, error = call_tool("import_checkpoint", (old, "--run_dir", tmp_path / "run"), monkeypatch, capsys)
    assert code == 2 and "needs --config" in error
    config = probe[2] / "old.yaml"
    assert (
        yaml.safe_load((probe[2] / "run" / "config.yaml").read_text())["pooler"]["type"] == "multi_instance"
    )
    words = (old, "--run_dir", tmp_path / "run", "--config", config)
    code, _, error = call_tool("import_checkpoint", words, monkeypatch, capsys)
    assert code == 2 and "blocks" in error  # tiny is no MViTv2-S
    assert not (tmp_path / "run").exists()
