"""What a block keeps for backward, what it makes again there, and in which format tokens travel between blocks.

`none` keeps what is dear to make: projections, pooled queries, attention's result, the wide activation of the MLP; norms and
GELU are made again in every mode. `selective` makes the wide activation again too, and in the long blocks below the projection
and pooling: two products of six are done twice, attention never. `blocks` keeps the tokens before each half of a block
and makes all else again. Values, gradients and random draws are the same in all three.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepcoro.config import ConfigError
from deepcoro.kernels.precision import autocast_dtype

Result = TypeVar("Result", Tensor, tuple[Tensor, ...])

CHECKPOINTING = ("none", "blocks", "selective")
CHEAP_DIM = 192
"""Width up to which `selective` makes projections again: a product costs as many FLOPs a byte of its result as its input is wide."""
RESIDUALS = ("fp32", "bf16")


def remade(function: Callable[..., Result], *arguments: object) -> Result:
    """`function(*arguments)`, whose inside backward makes again. It must draw no random numbers: they are not replayed."""
    if not torch.is_grad_enabled():
        return function(*arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


def residual_stream(
    tokens: Float[Tensor, "batch token dim"], residual: str
) -> Float[Tensor, "batch token dim"]:
    """The tokens that enter the first block, in the format that they keep between blocks: fp32, or that of autocast's products
    (`bf16`), which halves what the stream keeps and moves. Norms and sums are computed in fp32 either way.
    """
    if residual not in RESIDUALS:
        raise ConfigError(f"residual is '{residual}'; allowed: {RESIDUALS}")
    if residual == "bf16":
        return tokens.to(autocast_dtype(tokens))
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))
