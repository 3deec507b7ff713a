"""torchvision's MViT in the geometry of an encoder of ours: the same names, and in evaluation the same function."""

from collections.abc import Sequence

from torch import nn

from deepcoro.config import ConfigError
from deepcoro.mvit.shapes import BlockShape


def torchvision_mvit(shapes: Sequence[BlockShape], frames: int, size_px: int) -> nn.Module:
    """Untrained; three channels, no dropout, no drop path. Its own constructors allow neither another size of films nor other blocks.

    ConfigError where torchvision is not installed.
    """
    try:
        from torchvision.models.video.mvit import MSBlockConfig, MViT
    except ImportError as error:
        raise ConfigError(
            "this needs torchvision: pip install 'deepcoro[timm]'", topic="missing-packages"
        ) from error
    kernel = [3, 3, 3]
    blocks = [
        MSBlockConfig(
            num_heads=shape.heads,
            input_channels=shape.dim_in,
            output_channels=shape.dim_out,
            kernel_q=kernel,
            kernel_kv=kernel,
            stride_q=[1, shape.query_stride, shape.query_stride],
            stride_kv=[1, shape.key_stride, shape.key_stride],
        )
        for shape in shapes
    ]
    switches = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), True)
    return MViT((size_px, size_px), frames, blocks, residual_with_cls_embed=False, dropout=0.0, **switches)
