"""Features of a frozen video tower, computed once: training then reads them by film, decodes nothing and never runs the tower.

On disk in run_dir/video_features (or towers.video.features_folder), found again by every run with the same weights, films and frames.
"""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deepcoro import distributed
from deepcoro.build import Parts
from deepcoro.config import dump
from deepcoro.data.damage import Bad, unreadable_of_split
from deepcoro.data.stream import EvaluationStream
from deepcoro.data.units import Units
from deepcoro.model import to_device
from deepcoro.run_config import RunConfig
from deepcoro.stored_features import StoredFeatures, write_part

logger = logging.getLogger(__name__)

FOLDER = "video_features"
_PART_BYTES = 256 * 2**20
# What of the tower's block does not change what it says.
_IRRELEVANT = {
    "weights",
    "video_freeze_ratio",
    "activation_checkpointing",
    "cache_features",
    "features_folder",
}


def read_films_from_disk(model: nn.Module, config: RunConfig, parts: Parts, device: torch.device) -> None:
    """Has the films of training and of its evaluations come as features, computed now where no earlier start did. Collective.

    Every rank encodes a share and writes it. A film that cannot be read has none, and is a bad sample as ever.
    """
    is_whole = any(
        getattr(each, "reads_tokens", False) for each in (*config.objectives.values(), config.pooler)
    )
    root = config.towers.video.features_folder or config.run_dir / FOLDER
    folder = root / _digest(model, config, parts, is_whole)
    model.to(device).eval()
    names = np.array(parts.shards.films.read(["clip"])["clip"].to_pylist())
    for split in ("train", "val"):
        if split in parts.shards.splits:
            films = parts.shards.units(split, False, 1)
            units = _missing(films, names, folder)
            if len(units):
                bad = _store(model, config, parts, units, names, folder, is_whole)
                unreadable_of_split(bad, len(films), config.data.max_bad_fraction)
                logger.info(
                    "video tower: %d films of split %s encoded once, in %s", len(units), split, folder
                )
            distributed.barrier()
    parts.fields["video"].stored = StoredFeatures(folder)


def _digest(model: nn.Module, config: RunConfig, parts: Parts, is_whole: bool) -> str:
    """Of all that a feature depends on."""
    digest = hashlib.sha256()
    state = model.towers["video"].state_dict(prefix="towers.") | model.normalisation.state_dict(
        prefix="pixels."
    )
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tower = {key: value for key, value in dump(config.towers.video).items() if key not in _IRRELEVANT}
    films = sorted(source["fingerprint"] for source in parts.shards.record()["sources"].values())
    settings = [tower, dump(config.data.fields["video"]), config.precision, is_whole, films]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _missing(units: Units, names: np.ndarray, folder: Path) -> Units:
    """Films without features; rank 0 has looked."""
    found = StoredFeatures(folder).has(names[units.film].tolist()) if distributed.rank() == 0 else None
    chosen = np.flatnonzero(~distributed.broadcast_object(found))
    return dataclasses.replace(units, study_row=units.study_row[chosen], clip=units.clip[chosen])


@torch.no_grad()
def _store(
    model: nn.Module,
    config: RunConfig,
    parts: Parts,
    units: Units,
    names: np.ndarray,
    folder: Path,
    is_whole: bool,
) -> list[Bad]:
    """This rank's share, in parts; gives what of it could not be read."""
    name_of = names[units.film]
    batches = EvaluationStream(
        parts.shards,
        units,
        {"video": parts.fields["video"]},
        config.evaluation_batch_size * (config.data.num_videos if config.data.multi_video else 1),
        distributed.rank(),
        distributed.world_size(),
        config.data.workers,
    )
    held: list[tuple[list[str], list[int], Tensor]] = []
    for batch in batches:
        held.append(_encoded(model, batch, name_of, is_whole))
        if sum(rows.nbytes for _, _, rows in held) >= _PART_BYTES:
            _write(folder, held)
    _write(folder, held)
    return batches.bad


def _encoded(
    model: nn.Module, batch: dict, name_of: np.ndarray, is_whole: bool
) -> tuple[list[str], list[int], Tensor]:
    """Films that could be read, how many clips each has, and a row a clip."""
    valid, counts = batch["valid"], batch["clip_mask"].sum(1)[batch["valid"]]
    names = name_of[batch["unit"][valid].numpy()].tolist()
    features = model.clip_features(to_device(batch, next(model.parameters()).device))
    tokens = features.tokens if is_whole else features.per_video()[:, :, None]
    return names, counts.tolist(), tokens[features.clip_mask].cpu()


def _write(folder: Path, held: list[tuple[list[str], list[int], Tensor]]) -> None:
    names = [name for each, _, _ in held for name in each]
    if names:
        counts = [count for _, each, _ in held for count in each]
        write_part(folder, names, counts, torch.cat([rows for _, _, rows in held]))
    held.clear()
