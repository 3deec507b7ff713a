"""Tensors -> scalar. One file a loss, named as its `type` in YAML."""

from deepcoro.config import choice
from deepcoro.losses import clip, siglip

Loss = choice(clip.Config, siglip.Config)
