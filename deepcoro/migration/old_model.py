"""A whole model of DeepCORO_CLIP as a run folder, which val, test, inference and tools/predict.py read; and what became of every tensor.

Contrastive (and multitask) checkpoints become two towers, the pooler `aggregator` and `contrastive`; linear probing becomes the pooler
`multi_instance` and its heads. Both are the same functions as there in evaluation, but for what `FAULTS` names.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from deepcoro import __version__, atomic, checkpoint
from deepcoro.config import ConfigError, dump, parse, show
from deepcoro.migration.conversions import kind_of
from deepcoro.migration.names import Renamed, by_part, renamed
from deepcoro.migration.old_checkpoint import OldCheckpoint, read_old_checkpoint, require_mvit
from deepcoro.migration.old_config import import_config, pixel_constants_of, read_old
from deepcoro.migration.old_text import write_text_model
from deepcoro.model import VideoTextModel
from deepcoro.run_config import RunConfig
from deepcoro.seen import Seen

TOKENIZER = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext"
"""Which the predecessor knows by its earlier name, PubMedBERT."""
TOWER = "towers.video."
FAULTS = {
    "clip": (
        "W20: an absent film of a study was a film of mean grey; here it is masked. Studies with all their films, and single films, are the same",
        "W4: similarities there were of embeddings that were not normalised; here they are cosines",
        "W25: with stride > 1 frames were drawn in evaluation too; here they never are",
    ),
    "linear_probing": (
        "W20: an absent film of a study was a film of mean grey; pooler.absent_films says which of the two is done here",
        "W24, W25: frames and pictures were drawn in evaluation too where the config says so; here they never are",
    ),
}
"""In what an imported model differs from the original on purpose."""


@dataclass(frozen=True)
class Old:
    """What is imported."""

    path: Path
    config: Path
    pixel_constants: tuple[float, float] | None = None
    """Mean and std of grey levels; None = those of the config."""
    tokenizer: str = TOKENIZER
    variant: str = "mvit_v2_s"
    """Of the video tower; the predecessor has no other."""
    absent_films: str = "counted"
    """As `pooler.absent_films` of linear probing."""


def import_model(old: Old, run_dir: Path) -> str:
    """Writes `run_dir`, whole or not at all, and says what became of every tensor.

    ConfigError where the folder exists, where checkpoint and config are of two kinds, and where the network was another function.
    """
    if run_dir.exists():
        raise ConfigError(f"'{run_dir}' exists; name a new folder")
    read = read_old_checkpoint(old.path)
    kind = _kind(old, read)
    require_mvit(read, old.path)
    constants = old.pixel_constants or pixel_constants_of(old.config)
    if constants is None:
        raise ConfigError(
            f"{old.config} has no dataset_mean and dataset_std, on which every score hangs: give --pixel_mean and --pixel_std"
        )
    with atomic.whole_folder(run_dir) as unfinished:
        tree = _tree(old, read, kind, constants)
        config = _config(tree, run_dir, run_dir)
        beside, tokenizer = _config(tree, unfinished, run_dir), None
        if beside.towers.text is not None:
            write_text_model(read.tensors, unfinished / "text_model", old.tokenizer)
            tokenizer = beside.towers.text.load_tokenizer(None)
            tokenizer.save_pretrained(unfinished / "tokenizer")
        model = VideoTextModel(beside, tokenizer, *constants)
        found = renamed(read.tensors, model.state_dict(), kind)
        given = _fill(model, read, found, config)
        _write_run(unfinished, config, model, old, read)
    return _report(read, found, given, kind)


def _kind(old: Old, read: OldCheckpoint) -> str:
    """clip (also of a multitask config) or linear_probing, on which checkpoint and config must agree."""
    config = "linear_probing" if kind_of(read_old(old.config)) == "linear_probing" else "clip"
    if read.kind != config:
        raise ConfigError(
            f"{old.path} is a checkpoint of {read.kind} and {old.config} a config of {config}; give the config that the checkpoint was trained "
            "with, or take its encoder alone (--output without --run_dir)"
        )
    return config


def _tree(old: Old, read: OldCheckpoint, kind: str, constants: tuple[float, float]) -> dict:
    """The config of the run, without its folders."""
    given = read_old(old.config)
    tree = import_config(old.config).tree
    pooler = _aggregator(given, read) if kind == "clip" else _multi_instance(given, read, old.absent_films)
    objective = "contrastive" if kind == "clip" else "linear_probing"
    own = tree.get("objectives", {}).get(objective) or {}
    towers, data = tree.get("towers", {}), tree.get("data", {})
    video = {key: value for key, value in towers.get("video", {}).items() if key != "weights"}
    towers = towers | {"video": video | {"type": "video_mvit", "variant": old.variant}}
    fields = {name: block for name, block in data.get("fields", {}).items() if name in ("video", "labels")}
    fields["video"] = fields.get("video", {}) | {"preset": "predecessor"}
    if kind == "clip":
        width = _shape(read, "text_encoder.proj.1.weight")[0]
        own = own | {"type": "contrastive", "text_projection": "gelu", "embed_dim": width}
        own["max_logit_scale"] = max(own.get("max_logit_scale", 100.0), _logit_scale(read) or 0.0)
    optim = {key: value for key, value in tree.get("optim", {}).items() if key in ("lr", "text_lr")}
    left_out = ("loss_weights", "run_dir", "run_mode", "augment")
    return {key: value for key, value in tree.items() if key not in left_out} | {
        "objectives": {objective: own},
        "pooler": pooler,
        "towers": towers,
        "optim": optim,
        "data": data | {"fields": fields},
        "normalisation": {"pixel_mean": constants[0], "pixel_std": constants[1]},
        "precision": "fp32",
    }


def _config(tree: dict, folder: Path, run_dir: Path) -> RunConfig:
    """`folder`: where the text encoder lies."""
    towers = tree["towers"]
    if "contrastive" in tree["objectives"]:
        text = towers.get("text", {}) | {"type": "text_hf", "model": str(folder / "text_model")}
        towers = towers | {"text": text}
    return parse(RunConfig, tree | {"towers": towers, "run_dir": str(run_dir)}, "the imported model")


def _aggregator(given: dict[str, Any], read: OldCheckpoint) -> dict[str, Any]:
    pooling = given.get("video_pooling_mode") or "mean"
    if pooling not in ("mean", "attention"):
        raise ConfigError(
            f"video_pooling_mode '{pooling}' has no counterpart here; take the encoder alone (--output without --run_dir)"
        )
    blocks = {name.split(".")[3] for name in read.tensors if name.startswith("video_encoder.aggregator.blocks.")}  # fmt: skip
    return {
        "type": "aggregator",
        "token_pooling": pooling,
        "token_heads": int(given.get("attention_pool_heads") or 8),
        "embed_dim": _shape(read, "video_encoder.proj.1.weight")[0],
        "layers": len(blocks),
        "num_attention_heads": int(given["num_heads"]),
        "max_clips": _shape(read, "video_encoder.aggregator.pos_encoding")[1],
        "dropout": float(given.get("dropout") or 0.0),
    }


def _multi_instance(given: dict[str, Any], read: OldCheckpoint, absent_films: str) -> dict[str, Any]:
    if given.get("view_column"):
        raise ConfigError(
            "view_column adds an embedding of view classes to every token, and films here have angles in place of classes; take the encoder "
            "alone (--output without --run_dir)"
        )
    if given.get("aggregate_videos_tokens", True):
        raise ConfigError(
            "aggregate_videos_tokens true: heads read the aggregator's one vector, which no pooler here gives them; take the encoder alone "
            "(--output without --run_dir)"
        )
    mode = given.get("pooling_mode") or "mean"
    pooler = {
        "type": "multi_instance",
        "pooling_mode": mode,
        "hierarchical": not given.get("per_video_pool", False),
        "embed_dim": _shape(read, "video_encoder.proj.1.weight")[0],
        "absent_films": absent_films,
    }
    if "attention" in mode:
        pooler["hidden_dim"] = _shape(read, "mil_model.attention_V.weight")[0]
    return pooler


def _shape(read: OldCheckpoint, name: str) -> torch.Size:
    if name not in read.tensors:
        raise ConfigError(f"the checkpoint lacks '{name}', which a model of its config has")
    return read.tensors[name].shape


def _logit_scale(read: OldCheckpoint) -> float | None:
    """The multiplier of similarities; None where the checkpoint does not say it."""
    if "train/temperature" in read.numbers:
        return 1 / read.numbers["train/temperature"]
    if "train/log_temp" in read.numbers:
        return math.exp(-read.numbers["train/log_temp"])
    return None


@torch.no_grad()
def _fill(model: VideoTextModel, read: OldCheckpoint, found: Renamed, config: RunConfig) -> dict[str, str]:
    """Loads the checkpoint into the model; our tensors that it has nothing for -> what they hold. ConfigError where one is missing."""
    own = model.state_dict()
    model.towers["video"].load_weights(read.encoder, source="of the checkpoint")
    state = model.state_dict()
    for name, old_name in found.used.items():
        if not name.startswith(TOWER):
            state[name] = _fitted(read.tensors[old_name], own[name], old_name)
    given = {}
    for name in found.missing:
        if name.startswith("normalisation."):
            given[name] = "grey levels of the config"
        elif name.endswith(".unit"):
            given[name] = "1: heads say numbers in their label's unit"
        elif name == "pooler.absent":
            given[name] = "what the encoder says of a film of mean grey (W20)"
        elif name == "objectives.contrastive.video_projection.weight":
            state[name] = torch.eye(own[name].shape[0])
            given[name] = "the identity: films are projected in the pooler"
        elif name == "objectives.contrastive.logit_scale":
            scale = _logit_scale(read) or config.objectives["contrastive"].loss.init_logit_scale
            state[name] = torch.tensor([math.log(scale)])
            given[name] = f"1 / temperature = {scale:.4f}"
    missing = [name for name in found.missing if name not in given]
    if missing:
        raise ConfigError(
            f"the checkpoint lacks {len(missing)} of the {len(own)} tensors of its config's model, the first '{missing[0]}'"
        )
    model.load_state_dict(state)
    if "pooler.absent" in own:
        video = config.data.fields["video"]
        nothing = torch.zeros(1, 3, video.frames, video.size_px, video.size_px)
        model.pooler.learn_absent(model.eval().towers["video"].encode(nothing)[0])
    return given


def _fitted(tensor: Tensor, own: Tensor, name: str) -> Tensor:
    """Theirs have leading axes of one where ours have none."""
    while tensor.ndim > own.ndim and tensor.shape[0] == 1:
        tensor = rearrange(tensor, "1 ... -> ...")
    if tensor.shape != own.shape:
        raise ConfigError(
            f"'{name}' is {list(tensor.shape)} in the checkpoint; its config makes it {list(own.shape)}"
        )
    return tensor.to(own.dtype)


def _write_run(folder: Path, config: RunConfig, model: VideoTextModel, old: Old, read: OldCheckpoint) -> None:
    weights = {name: value.detach().float().contiguous() for name, value in model.state_dict().items()}
    imported = {"imported_from": "DeepCORO_CLIP", "file": old.path.name, "layout": read.layout}
    state = {
        "config": dump(config),
        "progress": {"step": 0},
        "imported": imported | {"deepcoro": __version__},
        "data": {"folder": "DeepCORO_CLIP", "patient_split": "unknown", **Seen(is_whole=False).to_state()},
    }
    snapshot = checkpoint.Snapshot(0, weights, {}, json.dumps(state).encode(), is_best=True)
    checkpoint.write(folder / "checkpoints", snapshot, checkpoint.Retention(1))
    head = f"# Imported from {old.path.name} and {old.config.name} by tools/import_checkpoint.py.\n"
    atomic.write_text(folder / "config.yaml", head + show(config) + "\n")


def _report(read: OldCheckpoint, found: Renamed, given: dict[str, str], kind: str) -> str:
    of_part = Counter(".".join(name.split(".")[:2]) for name in found.used)
    unused = sum(map(len, found.unused.values()))
    lines = [
        f"layout: {read.layout}; {len(read.tensors)} tensors",
        f"used: {len(found.used)}",
        *(f"  {number} tensors -> {part}" for part, number in sorted(of_part.items())),
        f"unused: {unused}",
        *(f"  {len(names)} tensors, {why}: {by_part(names)}" for why, names in found.unused.items()),
        "missing: 0; ours that no file of theirs has:",
        *(f"  {name}: {what}" for name, what in _grouped(given).items()),
        "the same function as there in evaluation, but for:",
        *(f"  {fault}" for fault in FAULTS[kind]),
    ]
    return "\n".join(lines)


def _grouped(given: dict[str, str]) -> dict[str, str]:
    """One line for all heads."""
    grouped: dict[str, str] = {}
    for name, what in given.items():
        grouped["objectives.linear_probing.heads.*.unit" if name.endswith(".unit") else name] = what
    return grouped
