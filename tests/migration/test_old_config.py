"""Configs of DeepCORO_CLIP as ours: every key has an answer, the YAML says only what differs, and it loads."""

import shlex
from pathlib import Path

import pytest
import yaml

from deepcoro.config import ConfigError
from deepcoro.migration.keys import STRAY_KEYS, TABLES, key_of
from deepcoro.migration.old_config import import_config
from deepcoro.run_config import RunConfig, load_run_config

KEYS = yaml.safe_load(Path(__file__).with_name("predecessor_keys.yaml").read_text())

CLIP = {
    "pipeline_project": "DeepCORO_clip",
    "base_checkpoint_path": "outputs",
    "run_mode": "train",
    "epochs": 30,
    "seed": 42,
    "name": "single",
    "project": "angiograms",
    "entity": "lab",
    "use_wandb": True,
    "lr": "7.2e-5",  # YAML 1.1 reads 7.2e-5 as a word
    "batch_size": 24,
    "temperature": 0.08,
    "data_filename": "reports.csv",
    "root": "data",
    "target_label": "Text",
    "datapoint_loc_label": "FileName",
    "frames": 32,
    "stride": 1,
    "multi_video": False,
    "num_videos": 1,
    "model_name": "mvit",
    "video_freeze_ratio": 0.8,
    "text_freeze_ratio": 0.75,
    "num_heads": 16,
    "aggregator_depth": 1,
    "scheduler_name": "linear_warmup",
    "num_warmup_percent": 0.1,
    "loss_name": "siglip_ddp",
    "recall_k": [1, 5, 50],
    "use_amp": True,
    "rand_augment": False,
    "device": 0,
    "max_logit_scle": 40,
}
PROBE = {
    "pipeline_project": "DeepCORO_video_linear_probing",
    "base_checkpoint_path": "outputs",
    "name": "segments",
    "data_filename": "labels.csv",
    "target_label": ["lvef", "cto", "grade"],
    "video_encoder_lr": 5e-6,
    "video_encoder_weight_decay": 1e-6,
    "video_freeze_ratio": 0.9,
    "multi_video": True,
    "num_videos": 10,
    "pooling_mode": "attention+cls_token",
    "attention_hidden": 256,
    "num_attention_heads": 6,
    "aggregate_videos_tokens": False,
    "per_video_pool": False,
    "aggregator_depth": 2,
    "head_structure": {"lvef": 1, "cto": 1, "grade": 3},
    "loss_structure": {"lvef": "huber", "cto": "bce_logit", "grade": "ce"},
    "head_task": {"lvef": "regression", "cto": "classification", "grade": "multiclass_classification"},
    "head_lr": {"lvef": 1e-3, "cto": 1e-3, "grade": 1e-3},
    "head_weights": {"lvef": 1.0, "cto": 2.0, "grade": 1.0},
    "head_dropout": {"lvef": 0.0, "cto": 0.2, "grade": 0.0},
    "labels_map": {"lvef": {"Value": "regression"}, "grade": {"none": 0, "mild": 1, "severe": 2}},
    "dataset_mean": [110.5, 110.5, 110.5],
    "dataset_std": [37.8, 37.8, 37.8],
    "inference_model_path": "old/best model.pt",
}


def imported(old, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(old))
    return import_config(path)


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_key_of_the_predecessor_has_an_answer(kind):
    assert [key for key in KEYS["base"] + KEYS[kind] if key not in TABLES[kind]] == []


def test_what_is_changed_or_dropped_says_why_and_only_that_is_converted():
    tables = [*TABLES.values(), STRAY_KEYS]
    for name, key in ((name, key) for table in tables for name, key in table.items()):
        assert key.why or key.fate == "mapped", name
        assert key.convert is None or key.fate != "dropped", name


def test_a_contrastive_config_says_the_same_here(tmp_path):
    run = imported(CLIP, tmp_path).config
    assert list(run.objectives) == ["contrastive"]
    assert run.towers.video.video_freeze_ratio == pytest.approx(0.2)  # inverted
    assert run.towers.text.text_freeze_ratio == pytest.approx(0.25)
    assert (run.optim.lr, run.optim.text_lr) == (7.2e-5, 2e-5)  # the second is written into their code
    assert run.objectives["contrastive"].loss.type == "clip"  # what siglip_ddp computes
    assert run.objectives["contrastive"].loss.init_logit_scale == pytest.approx(12.5)
    assert run.data.fields["video"].frames == 16 and not run.data.fields["video"].jitter
    assert run.optim.warmup_fraction == 0.1
    assert run.evaluate.metrics["retrieval"].recall_at == (1, 5, 50)
    assert (str(run.run_dir), run.tracking.wandb_project) == ("outputs/single", "angiograms")


def test_a_text_ratio_of_0_trained_everything(tmp_path):
    run = imported(CLIP | {"text_freeze_ratio": 0.0, "video_freeze_ratio": 0.0}, tmp_path).config
    assert (run.towers.text.text_freeze_ratio, run.towers.video.video_freeze_ratio) == (0, 1)


def test_studies_get_the_aggregator_as_a_pooler_and_tables_of_texts_their_field(tmp_path):
    run = imported(CLIP | {"multi_video": True, "num_videos": 3, "aggregator_depth": 2}, tmp_path).config
    assert (run.pooler.type, run.pooler.layers, run.pooler.num_attention_heads) == ("transformer", 2, 16)
    tables = {"siglip_texts_path": "t.csv", "siglip_edges_path": "e.csv", "siglip_negatives_per_video": 8}
    run = imported(CLIP | tables, tmp_path).config
    report = run.data.fields["report"]
    assert (report.type, str(report.texts), str(report.edges), report.num_negatives) == (
        "texts",
        "t.csv",
        "e.csv",
        8,
    )
    assert run.objectives["contrastive"].loss.type == "siglip"


def test_a_multitask_config_says_the_same_here(tmp_path):
    own = {
        "pipeline_project": "DeepCORO_multitask",
        "loss_name": "multitask",
        "decoder_layers": 4,
        "mask_ratio": 0.77,
        "mvm_decoder_hidden_size": 128,
        "mvm_decoder_heads": 4,
        "text_lr": 3e-5,
        "captioning_lr": 1e-4,
        "label_smoothing": 0.08,
        "max_text_length": 128,
        "captioning_do_sample": True,
        "loss_weights": {"contrastive": 2.0, "captioning": 0.3, "masked_modeling": 0.1, "stenosis_mse": 0.3},
    }
    run = imported(CLIP | own, tmp_path).config
    assert run.loss_weights == {"contrastive": 2.0, "captioning": 0.3, "masked_modeling": 0.1}
    assert run.objectives["captioning"].decoder_layers == 4
    assert run.objectives["captioning"].generation.method == "nucleus"
    assert run.objectives["masked_modeling"].decoder_dim == 128
    assert run.data.fields["caption"].max_tokens == run.data.fields["report"].max_tokens == 128
    assert run.optim.text_lr == 3e-5
    without = own | {"loss_weights": {"contrastive": 1.0, "captioning": 1.0, "masked_modeling": 0.0}}
    assert sorted(imported(CLIP | without, tmp_path).config.objectives) == ["captioning", "contrastive"]


def test_a_probe_says_the_same_here(tmp_path):
    run = imported(PROBE, tmp_path).config
    heads = run.objectives["linear_probing"]
    assert list(run.objectives) == ["linear_probing"]
    assert heads.loss_of("lvef").delta == 0.1 and heads.loss_of("cto").type == "bce"
    assert heads.task_of("cto") == "binary_classification"
    assert heads.head_lr == dict.fromkeys(("lvef", "cto", "grade"), 1e-3)
    assert heads.head_weights == {"cto": 2.0} and heads.head_dropout == {"cto": 0.2}
    assert heads.labels_map == {"grade": {"none": 0, "mild": 1, "severe": 2}}
    assert (run.pooler.type, run.pooler.hierarchical) == ("attention_cls_token", True)
    assert (run.pooler.hidden_dim, run.pooler.num_attention_heads) == (256, 6)
    assert run.towers.video.video_freeze_ratio == pytest.approx(0.1)
    assert (run.normalisation.pixel_mean, run.normalisation.pixel_std) == (110.5, 37.8)
    assert (run.data.multi_video, run.data.num_videos, run.optim.lr) == (True, 10, 5e-6)


@pytest.mark.parametrize("ratio, frozen", [(1.0, 1.0), (0.0, 1.0), (0.75, 0.25)])
def test_a_probes_ratio_of_1_froze_everything(tmp_path, ratio, frozen):
    assert (
        imported(PROBE | {"video_freeze_ratio": ratio}, tmp_path).config.towers.video.video_freeze_ratio
        == frozen
    )


@pytest.mark.parametrize("old", [CLIP, PROBE], ids=["clip", "probe"])
def test_the_yaml_loads_begins_with_its_command_and_holds_nothing_that_is_so_anyway(tmp_path, old):
    new, path = imported(old, tmp_path), tmp_path / "new folder.yaml"
    path.write_text(new.yaml(path))
    words = shlex.split(path.read_text().splitlines()[0])
    assert words[:3] == ["#", "accelerate", "launch"] and words[-1] == str(path)
    assert load_run_config(path, []) == new.config
    tree = yaml.safe_load(path.read_text())
    for block, key in list(_leaves(tree)):
        value = block.pop(key)
        try:
            changes = RunConfig.model_validate(tree) != new.config
        except ValueError:
            changes = True
        assert changes, key
        block[key] = value


def _leaves(tree):
    for key, value in tree.items():
        if isinstance(value, dict) and value and key != "linear_probing":
            yield from _leaves(value)
        else:
            yield tree, key


def test_the_report_names_every_key_once_and_what_to_do(tmp_path):
    report = imported(CLIP, tmp_path).report()
    named = [
        line.split(":")[0].strip() for line in report.splitlines() if line.startswith("  ") and ": " in line
    ]
    assert sorted(name for name in named if name in CLIP) == sorted(CLIP)
    assert (
        "INVERTED" in report
        and "max_logit_scle: 40" in report
        and "did you mean 'max_logit_scale'?" in report
    )
    assert (
        "tools/shard_dataset.py --csv data/reports.csv --output shards/reports --report_column Text" in report
    )
    assert "tools/import_checkpoint.py 'old/best model.pt'" in imported(PROBE, tmp_path).report()


def test_a_key_of_another_kind_is_told_apart_from_one_that_nobody_has():
    assert "multitask" in key_of("clip", "mask_ratio").why
    assert key_of("clip", "nonsense") is None


def test_what_is_no_config_of_the_predecessor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="sweep"):
        imported({"method": "bayes", "parameters": {}}, tmp_path)
    with pytest.raises(ConfigError, match="known: DeepCORO_clip"):
        imported(CLIP | {"pipeline_project": "DeepCORO_clip_study_level"}, tmp_path)
    with pytest.raises(ConfigError, match="'temperature' is 'warm'"):
        imported(CLIP | {"temperature": "warm"}, tmp_path)


def test_the_trainer_points_to_the_tool_when_it_is_given_an_old_config(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump(CLIP))
    with pytest.raises(ConfigError, match=r"tools/import_config\.py"):
        load_run_config(path, [])


def test_the_tool_writes_the_config_and_prints_the_report(tmp_path, monkeypatch, capsys):
    from tests.tools.command import call_tool

    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text(yaml.safe_dump(CLIP))
    code, said, _ = call_tool("import_config", (old, "--output", new), monkeypatch, capsys)
    assert code == 0 and "changed on purpose" in said and load_run_config(new, []).epochs == 30
    code, _, error = call_tool("import_config", (old, "--output", new), monkeypatch, capsys)
    assert code == 2 and "exists" in error
