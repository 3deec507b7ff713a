"""The verb `inference`: splits through a checkpoint, without labels or reports; a table of scores, and embeddings as Parquet."""

import logging
from dataclasses import replace
from typing import Any

from torch import nn

from deepcoro import distributed
from deepcoro.bank import REPORTS_SPLIT, report_table
from deepcoro.build import Parts, build_metrics
from deepcoro.config import ConfigError
from deepcoro.data.units import Units
from deepcoro.embed import embed_reports, embed_split
from deepcoro.embeddings import UNIT_SPACE, Slots, slots_of_rows, write_embeddings, write_table
from deepcoro.engine import start_accelerator
from deepcoro.evaluate import load_model, open_checkpoint, wanted_by, write_split_predictions
from deepcoro.evaluated import Evaluated
from deepcoro.fields.video import frame_indices
from deepcoro.run_config import RunConfig

logger = logging.getLogger(__name__)


def run(config: RunConfig) -> int:
    """Writes predictions/{data}_{split}.csv and embeddings/{data}_{split}_clips.parquet, ..._studies.parquet of `inference.splits`."""
    accelerator = start_accelerator(config)
    saved, parts = open_checkpoint(config)
    model = load_model(config, parts, saved).to(accelerator.device)
    about = {
        "checkpoint": saved.title(),
        "data": parts.shards.name,
        "data_fingerprint": parts.shards.fingerprint,
    }
    if config.inference.reports:
        _write_reports(model, config, parts, about)
    for split in config.inference.splits:
        _predict(model, config, parts, split, about, saved.epoch())
    distributed.barrier()
    return 0


def _predict(
    model: nn.Module, config: RunConfig, parts: Parts, split: str, about: dict[str, Any], epoch: int | None
) -> None:
    metrics = build_metrics(config)
    evaluated = embed_split(model, config, parts, split, replace(wanted_by(metrics), each_clip=True))
    if distributed.rank() != 0:
        return
    name = f"{parts.shards.name}_{split}"
    write_split_predictions(config, parts, name, evaluated, metrics, epoch)
    slots = _slots(config, parts, evaluated)
    for path in write_embeddings(config.run_dir / "embeddings", name, evaluated, slots, about):
        logger.info("embeddings: %s", path)


def _write_reports(model: nn.Module, config: RunConfig, parts: Parts, about: dict[str, Any]) -> None:
    if not any(hasattr(objective, "embed_text") for objective in model.objectives.values()):
        raise ConfigError(
            "inference.reports is true, but no objective of this run puts reports into a space with films; it needs contrastive"
        )
    read = embed_reports(model, config, parts, REPORTS_SPLIT)
    if distributed.rank() == 0:
        path = config.run_dir / "embeddings" / f"{parts.shards.name}_reports.parquet"
        write_table(path, report_table(read), {**about, "space": UNIT_SPACE})
        logger.info("reports: %s", path)


def _slots(config: RunConfig, parts: Parts, evaluated: Evaluated) -> list[Slots]:
    units: Units = parts.shards.units(evaluated.split, config.data.multi_video, config.data.num_videos)
    field = config.data.fields["video"]
    if field.windows is None:
        return slots_of_rows(units, evaluated.units.tolist())

    def windows_of(row: int, film: int) -> int:
        return len(frame_indices(field, parts.shards.study(row).clips[film], None))

    return slots_of_rows(units, evaluated.units.tolist(), windows_of)
