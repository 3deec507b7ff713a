"""Clips of a study -> one embedding, always with a mask: padding changes nothing. One file a pooler, named as its `type` in YAML."""

from deepcoro.config import choice
from deepcoro.poolers import attention, mean

Pooler = choice(mean.Config, attention.Config)
