"""Features of a frozen text tower, computed once a run: training then reads them by text and never runs the tower.

On disk in run_dir/text_features, memory-mapped by the loader's workers; found again by a run that goes on with the same weights.
"""

import hashlib
import io
import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro import atomic, distributed
from deepcoro.build import Parts
from deepcoro.config import ConfigError
from deepcoro.data.units import Units
from deepcoro.embed import encoded_in_shares
from deepcoro.run_config import RunConfig
from deepcoro.sample import StudyRecord
from deepcoro.tokens import TextFeatures, letters_id

logger = logging.getLogger(__name__)

FOLDER = "text_features"
_MOST_REPORTS = 8


def read_texts_from_disk(model: nn.Module, config: RunConfig, parts: Parts, device: torch.device) -> None:
    """Has the reports of training come with their features, computed now where no earlier start did. Collective.

    For a tower that is frozen for good. Every rank embeds a share of the distinct texts; rank 0 writes.
    """
    field = parts.fields["report"]
    texts = None
    if distributed.rank() == 0:
        texts = sorted({"", *training_texts(field, parts, config)})
    texts = distributed.broadcast_object(texts)
    folder = config.run_dir / FOLDER / _digest(model.towers["text"], config, parts.tokenizer, texts)
    is_there = distributed.broadcast_object((folder / TextFeatures.VALUES).is_file())
    if not is_there:
        features = _embedded(model.towers["text"].to(device), config, parts.tokenizer, texts)
        if distributed.rank() == 0:
            _write(folder, texts, features)
        logger.info("text tower: %d distinct texts embedded once, in %s", len(texts), folder)
        distributed.barrier()
    field.read_features(TextFeatures(folder))


def training_texts(field: Any, parts: Parts, config: RunConfig) -> Iterator[str]:
    """Every text that a row of training may have. ConfigError where they depend on drawn clips in too many ways."""
    if hasattr(field, "bank"):
        yield from field.bank.texts
        return
    units = parts.shards.units("train", config.data.multi_video, config.data.num_videos)
    for unit in range(len(units)):
        study = parts.shards.study(int(units.study_row[unit]))
        yield from _texts_of(study, units, unit)


def _texts_of(study: StudyRecord, units: Units, unit: int) -> Iterator[str]:
    clips = (int(units.clip[unit]),) if units.clip[unit] >= 0 else tuple(units.clips(unit).tolist())
    if len(clips) <= units.num_videos or any(report.scope == "study" for report in study.reports):
        yield from filter(None, [study.report_of(clips)])
        return
    if len(study.reports) > _MOST_REPORTS:
        raise ConfigError(
            f"towers.text.cache_features: study {study.study} has {len(study.reports)} reports of {len(clips)} films, of which"
            f" data.num_videos = {units.num_videos} are drawn: its text may be any of too many; raise num_videos, or switch it off"
        )
    # the films drawn decide which of the reports come together
    for count in range(1, len(study.reports) + 1):
        for some in itertools.combinations(study.reports, count):
            yield "\n".join(dict.fromkeys(report.text for report in some))


def _digest(tower: nn.Module, config: RunConfig, tokenizer: Any, texts: Sequence[str]) -> str:
    """Of all that a feature depends on."""
    digest = hashlib.sha256()
    for name, value in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().flatten().view(torch.uint8).numpy())
    settings = [config.towers.text.pooling, config.precision, config.data.fields["report"].max_tokens]
    vocabulary = sorted(tokenizer.get_vocab().items())
    for each in (*settings, vocabulary, *texts):
        digest.update(f"{each}\0".encode())
    return digest.hexdigest()[:32]


@torch.no_grad()
def _embedded(
    tower: nn.Module, config: RunConfig, tokenizer: Any, texts: Sequence[str]
) -> Float[Tensor, "text dim"]:
    """In the order of the texts, on every rank; each embeds those of its share, which are of like length."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    device, max_tokens = next(tower.parameters()).device, config.data.fields["report"].max_tokens

    def encode(report: dict[str, Tensor]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return tower(**report)

    features = encoded_in_shares([texts[row] for row in order], tokenizer, max_tokens, device, encode)
    return features[torch.from_numpy(np.argsort(order, kind="stable")).to(device)]


def _write(folder: Path, texts: Sequence[str], features: Tensor) -> None:
    ids = np.array([letters_id(text) for text in texts])
    order = np.argsort(ids)
    for name, values in (
        (TextFeatures.IDS, ids[order]),
        (TextFeatures.VALUES, features.cpu().numpy()[order]),  # last: a folder that holds it is whole
    ):
        sink = io.BytesIO()
        np.save(sink, values)
        atomic.write_bytes(folder / name, sink.getvalue())
