"""Clips of a study -> one embedding, always with a mask: padding changes nothing. One file a pooler, named as its `type` in YAML.

`Config(PoolerBlock).build(dim)` gives a `deepcoro.pooling.study.StudyPooler`, whose `dim` is the width of what comes out.
"""

from deepcoro.config import choice
from deepcoro.poolers import (
    aggregator,
    attention,
    attention_cls_token,
    cls_token,
    max,
    mean,
    mean_cls_token,
    multi_instance,
    transformer,
)

Pooler = choice(
    mean.Config,
    max.Config,
    attention.Config,
    cls_token.Config,
    mean_cls_token.Config,
    attention_cls_token.Config,
    transformer.Config,
    multi_instance.Config,
    aggregator.Config,
)
