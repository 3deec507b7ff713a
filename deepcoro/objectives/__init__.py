"""Features + targets -> one loss; each owns its head. One file an objective, named as its `type` in YAML."""

from deepcoro.config import choice
from deepcoro.objectives import contrastive

Objective = choice(contrastive.Config)
