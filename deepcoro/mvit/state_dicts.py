"""Weights of other encoders and other grids, as this one takes them: names of SlowFast, checks of depth and width, positions stretched."""

import logging
import re

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from deepcoro.config import ConfigError

logger = logging.getLogger(__name__)

# SlowFast's names, slowfast/models/attention.py and video_model_builder.py, and torchvision's, which are ours. Tried in this order.
OF_SLOWFAST = [
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "pos_encoding.class_token"),
    (r"^head\.projection\.", "head.1."),
    (r"\.attn\.proj\.", ".attn.project.0."),
    (r"\.attn\.pool_([qkv])\.weight$", r".attn.pool_\1.pool.weight"),
    (r"\.attn\.norm_([qkv])\.", r".attn.pool_\1.norm_act.0."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.3."),
    (r"^(blocks\.\d+)\.proj\.", r"\1.project."),
]

OF_THE_FIRST_MVIT = {"pos_encoding.spatial_pos", "pos_embed_spatial"}


def adapt(state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of `own`'s names out of `state`: renamed, checked and, for positions, stretched to this grid.

    ConfigError when the weights are of an encoder of another depth, width or kind, or lack a tensor. Logs what was used and what not.
    """
    state = rename_slowfast(state, source) if "patch_embed.proj.weight" in state else state
    _check_architecture(state, own, source)
    missing = sorted(own.keys() - state.keys())
    if missing:
        raise ConfigError(
            f"weights {source} lack {len(missing)} of {len(own)} tensors, the first '{missing[0]}'",
            topic="weights-that-do-not-fit",
        )
    fitted = {name: fit_tensor(name, state[name], own[name], source) for name in own}
    unused = sorted(state.keys() - own.keys())
    logger.info("weights %s: %d tensors used, %d unused %s", source, len(own), len(unused), unused)
    stretched = sorted(name for name in own if state[name].shape != own[name].shape)
    if stretched:
        logger.info("weights %s: positions of %d tables stretched to this grid", source, len(stretched))
    return fitted


def rename_slowfast(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """A SlowFast MViTv2 under our names. Its joint qkv is ours; separate q, k and v mean pooling before projection or a trial of
    theirs, which the names do not tell apart: refused.
    """
    if "blocks.0.attn.q.weight" in state:
        raise ConfigError(
            f"weights {source}: SlowFast's separate q, k, v (SEPARATE_QKV or POOL_FIRST) are another encoder; MViTv2-S, -B and -L have one qkv"
        )
    renamed = {}
    for name, value in state.items():
        for pattern, ours in OF_SLOWFAST:
            name = re.sub(pattern, ours, name)
        renamed[name] = value.flatten() if name == "pos_encoding.class_token" else value
    return renamed


def _check_architecture(state: dict[str, Tensor], own: dict[str, Tensor], source: str) -> None:
    """One line that says which encoder the weights are of, before the first tensor that does not fit says less."""
    if OF_THE_FIRST_MVIT & state.keys():
        raise ConfigError(
            f"weights {source} are of the first MViT (mvit_v1_b), which is not built: its positions are absolute, its queries not "
            "pooled, its width grows in the MLP; start from MViTv2 (mvit_v2_s)"
        )
    theirs, ours = architecture(state), architecture(own)
    differ = [key for key in ours if key in theirs and theirs[key] != ours[key]]
    if differ:
        told = "; ".join(f"{key} {theirs[key]}, this encoder {ours[key]}" for key in differ)
        raise ConfigError(
            f"weights {source} are of another encoder: {told}; set towers.video.variant to theirs",
            topic="weights-that-do-not-fit",
        )


def architecture(state: dict[str, Tensor]) -> dict[str, object]:
    """What a state dict in our names says of its encoder; keys whose tensor it lacks are left out."""
    blocks = {int(found[1]) for name in state if (found := re.match(r"blocks\.(\d+)\.", name))}
    widened = [number for number in sorted(blocks) if f"blocks.{number}.project.weight" in state]
    facts: dict[str, object] = {}
    if blocks:
        facts["depth"] = len(blocks)
        facts["blocks that widen"] = widened
    for key, name in (("width", "conv_proj.weight"), ("head_dim", "blocks.0.attn.pool_k.pool.weight")):
        if name in state:
            facts[key] = len(state[name])
    return facts


def fit_tensor(name: str, value: Tensor, own: Tensor, source: str) -> Tensor:
    """`value` for the place of `own`: relative positions made for another grid are stretched, any other shape is a ConfigError."""
    if value.shape == own.shape:
        return value
    if "rel_pos_" in name and value.ndim == 2 and value.shape[1] == own.shape[1]:
        return interpolate_positions(value, len(own))
    raise ConfigError(
        f"weights {source}: '{name}' is {tuple(value.shape)}; this encoder has {tuple(own.shape)}",
        topic="weights-that-do-not-fit",
    )


def interpolate_positions(
    table: Float[Tensor, "position dim"], num_positions: int
) -> Float[Tensor, "positions_out dim"]:
    """A table of relative positions made for another grid, stretched linearly as torchvision does in each forward."""
    film = rearrange(table.float(), "position dim -> 1 dim position")
    stretched = F.interpolate(film, size=num_positions, mode="linear")
    return rearrange(stretched, "1 dim position -> position dim").to(table.dtype)
