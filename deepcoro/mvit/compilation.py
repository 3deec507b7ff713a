"""torch.compile for the blocks of an encoder."""

import torch
from torch import nn

VERSIONS_PER_BLOCK = 8
"""Training and evaluation, fp32 and autocast, dense and sparse."""


BACKEND = "inductor"


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Compiles each block by itself, in place: names of parameters stay, and blocks of one shape share what was compiled.

    All blocks run the same code, so torch counts their shapes as recompilations of one function and would leave it uncompiled
    after 8 of them without a word to the user: the limit is raised to what this many blocks can need.
    """
    limit = VERSIONS_PER_BLOCK * len(blocks)
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, limit)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * limit)
    for block in blocks:
        block.compile(backend=BACKEND)
