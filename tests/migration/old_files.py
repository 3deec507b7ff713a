"""Checkpoints and configs as DeepCORO_CLIP leaves them, of the tiny networks in `original`."""

import torch
import yaml

from deepcoro.migration.old_model import Old
from deepcoro.towers.text_hf import train_tokenizer
from tests.migration import original

HEADS = {"cto": 1, "grade": 3, "lvef": 1}
PROBE = {
    "pipeline_project": "DeepCORO_video_linear_probing",
    "base_checkpoint_path": "outputs",
    "name": "stenosis",
    "data_filename": "labels.csv",
    "model_name": "mvit",
    "resize": original.SIZE_PX,
    "frames": 16,
    "stride": 1,
    "multi_video": True,
    "num_videos": 3,
    "pooling_mode": "attention+cls_token",
    "num_attention_heads": 6,
    "aggregate_videos_tokens": False,
    "per_video_pool": False,
    "num_heads": 4,
    "video_encoder_lr": 1e-5,
    "video_freeze_ratio": 0.85,
    "use_amp": True,
    "head_structure": HEADS,
    "head_task": {
        "cto": "binary_classification",
        "grade": "multiclass_classification",
        "lvef": "regression",
    },
    "loss_structure": {"cto": "bce_logit", "grade": "ce", "lvef": "huber"},
    "dataset_mean": [original.MEAN] * 3,
    "dataset_std": [original.STD] * 3,
}
CLIP = {
    "pipeline_project": "DeepCORO_clip",
    "base_checkpoint_path": "outputs",
    "name": "single",
    "data_filename": "reports.csv",
    "model_name": "mvit",
    "resize": original.SIZE_PX,
    "frames": 32,
    "stride": 1,
    "multi_video": True,
    "num_videos": 3,
    "num_heads": 4,
    "aggregator_depth": 1,
    "attention_pool_heads": 2,
    "lr": 7e-5,
    "temperature": 0.1,
    "loss_name": "siglip_ddp",
    "use_amp": True,
    "data_mean": original.MEAN,
    "data_std": original.STD,
}


def probe_network(mode="attention+cls_token", seed=0, std=0.2):
    """Encoder and multi-instance model, the same in every call."""
    torch.manual_seed(seed)
    encoder = original.perturbed(original.VideoEncoder(), seed, std)
    return encoder, original.perturbed(original.MultiInstance(mode, HEADS), seed + 1, std)


def probe_checkpoint(encoder, mil, wrapped=True):
    """The encoder bare, the multi-instance model in data-parallel's names."""
    inner = "mil_model.module." if wrapped else "mil_model."
    state = {f"video_encoder.{key}": value for key, value in encoder.state_dict().items()}
    state |= {f"{inner}{key}": value for key, value in mil.state_dict().items()}
    return {"linear_probing": state, "epoch": 11}


def clip_checkpoint(video, text, wrapped=True):
    outer = "module." if wrapped else ""
    states = {
        name: {f"{outer}{key}": value for key, value in each.state_dict().items()}
        for name, each in (("video_encoder", video), ("text_encoder", text))
    }
    return states | {"optimizer": {"state": {}}, "epoch": 9, "train/temperature": 0.0588}


def written(folder, checkpoint, config, **others):
    """As `import_model` takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, folder / "old.pt")
    (folder / "old.yaml").write_text(yaml.safe_dump(config))
    return Old(folder / "old.pt", folder / "old.yaml", variant="tiny", **others)


def write_tokenizer(folder, texts):
    tokenizer = train_tokenizer(texts, 512, 256)
    tokenizer.save_pretrained(folder)
    return tokenizer
