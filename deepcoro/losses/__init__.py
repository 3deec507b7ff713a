"""Tensors -> scalar. One file a loss, named as its `type` in YAML.

`Loss`: of pairs of films and texts. `HeadLoss`: of the labels of heads; its `Config.build()` gives a `deepcoro.assessed.LabelLoss`, and
`Config.tasks` says what heads it trains. The first of a task's is taken where a head names none.
"""

from deepcoro.config import choice
from deepcoro.losses import bce, ce, clip, focal, huber, mae, mse, ordinal, siglip

Loss = choice(clip.Config, siglip.Config)
HEAD_LOSSES = (
    bce.Config,
    ce.Config,
    focal.Config,
    huber.Config,
    mse.Config,
    mae.Config,
    ordinal.Config,
)
HeadLoss = choice(*HEAD_LOSSES)
