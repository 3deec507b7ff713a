"""What an evaluation computes from embeddings; to add a metric is to add a file here and a name below."""

from deepcoro.config import choice
from deepcoro.metrics import retrieval, zero_shot

Metric = choice(retrieval.Config, zero_shot.Config)
