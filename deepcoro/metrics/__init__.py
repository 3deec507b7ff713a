"""What an evaluation computes from embeddings; to add a metric is to add a file here and a name below.

A metric's `Config.build()` gives a `deepcoro.evaluated.Measurement`: what it wants embedded, its flat numbers with notes on what could
not be measured, and its columns of the predictions table.
"""

from deepcoro.config import choice
from deepcoro.metrics import (
    alignment_uniformity,
    calibration,
    captioning,
    classification,
    clinical_findings,
    nearest_reports,
    privacy,
    prompt_sweep,
    reconstruction,
    regression,
    retrieval,
    serial_change,
    survival,
    wrong_side,
    zero_shot,
)

Metric = choice(
    retrieval.Config,
    zero_shot.Config,
    wrong_side.Config,
    privacy.Config,
    captioning.Config,
    clinical_findings.Config,
    alignment_uniformity.Config,
    reconstruction.Config,
    classification.Config,
    regression.Config,
    calibration.Config,
    survival.Config,
    prompt_sweep.Config,
    nearest_reports.Config,
    serial_change.Config,
)
