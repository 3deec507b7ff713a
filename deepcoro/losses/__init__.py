"""Tensors -> scalar. One file a loss, named as its `type` in YAML.

`Loss`: of pairs of films and texts. `HeadLoss`: of the labels of heads; its `Config.build()` gives a `deepcoro.assessed.LabelLoss`.
"""

from deepcoro.config import choice
from deepcoro.losses import bce, ce, clip, focal, huber, mae, mse, ordinal, siglip

Loss = choice(clip.Config, siglip.Config)
HeadLoss = choice(bce.Config, ce.Config, focal.Config, huber.Config, mse.Config, mae.Config, ordinal.Config)
