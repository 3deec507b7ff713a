"""The verb `inference`: the split `inference` through a checkpoint, without labels or reports; embeddings and a table of scores."""

import io
import logging
from pathlib import Path

import numpy as np

from deepcoro import atomic, distributed
from deepcoro.embed import embed_split
from deepcoro.engine import start_accelerator
from deepcoro.evaluate import load_model, open_checkpoint, write_split_predictions
from deepcoro.evaluated import Evaluated
from deepcoro.run_config import RunConfig

logger = logging.getLogger(__name__)


def run(config: RunConfig) -> int:
    """Writes predictions/{data}_inference.csv and embeddings/{data}_inference.npz."""
    accelerator = start_accelerator(config)
    saved, parts = open_checkpoint(config)
    model = load_model(config, parts, saved).to(accelerator.device)
    prompts = [
        sentence for metric in config.evaluate.metrics.values() for sentence in metric.build().prompts()
    ]
    evaluated = embed_split(model, config, parts, "inference", list(dict.fromkeys(prompts)))
    if distributed.rank() == 0:
        name = f"{parts.shards.name}_inference"
        write_split_predictions(config, name, evaluated)
        logger.info(
            "embeddings: %s", _write_embeddings(config.run_dir / "embeddings" / f"{name}.npz", evaluated)
        )
    distributed.barrier()
    return 0


def _write_embeddings(path: Path, evaluated: Evaluated) -> Path:
    """Arrays `clip`, `study` (keyed ids) and `embedding` [film, dim], L2-normalised float32, row by row."""
    payload = io.BytesIO()
    np.savez(payload, clip=evaluated.clips, study=evaluated.studies, embedding=evaluated.films)
    atomic.write_bytes(path, payload.getvalue())
    return path
