"""What an evaluation computes from embeddings; to add a metric is to add a file here and a name below.

A metric's `Config.build()` gives `prompts()` (sentences it wants embedded), `measure(evaluated)` (flat numbers, notes on what
could not be measured) and `film_scores(evaluated)` (columns of the predictions table). One whose `reads_training_reports` is True is
given `evaluated.training`.
"""

from deepcoro.config import choice
from deepcoro.metrics import (
    alignment_uniformity,
    captioning,
    clinical_findings,
    reconstruction,
    retrieval,
    zero_shot,
)

Metric = choice(
    retrieval.Config,
    zero_shot.Config,
    captioning.Config,
    clinical_findings.Config,
    alignment_uniformity.Config,
    reconstruction.Config,
)
