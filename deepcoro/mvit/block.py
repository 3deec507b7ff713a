"""One block of MViTv2: pooling attention, then an MLP."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.config import ConfigError
from deepcoro.kernels.max_pooling import max_pool_tokens
from deepcoro.kernels.norm_linear import NormLinear, ReadNorm
from deepcoro.kernels.norm_mlp import NormMlp
from deepcoro.kernels.residual_linear import Residual
from deepcoro.mvit.attention import NORM_EPS, MultiscaleAttention
from deepcoro.mvit.checkpointing import CHEAP_DIM, CHECKPOINTING, remade
from deepcoro.mvit.layout import BlockLayout, fill_outside
from deepcoro.mvit.shapes import BlockShape


class StochasticDepth(nn.Module):
    """Drops a residual branch for whole clips with probability `rate` and scales the rest up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch 1 1"] | None:
        """The factor of each clip's branch, drawn anew; None where nothing is dropped."""
        if not self.training or self.rate == 0:
            return None
        kept = torch.empty(len(tokens), 1, 1, device=tokens.device).bernoulli_(1 - self.rate)
        return kept / (1 - self.rate) if self.rate < 1 else kept


class MultiscaleBlock(nn.Module):
    """x -> pool(x) + attention(norm(x)) -> x + mlp(norm(x)); width and grid change in the attention."""

    def __init__(
        self,
        shape: BlockShape,
        drop_path_rate: float,
        backend: str,
        checkpointing: str = "none",
        class_token: bool = True,
        positions: str = "relative",
    ) -> None:
        super().__init__()
        if checkpointing not in CHECKPOINTING:
            raise ConfigError(f"activation_checkpointing is '{checkpointing}'; allowed: {CHECKPOINTING}")
        self.checkpointing = checkpointing
        self.shape = shape
        self.norm1 = ReadNorm(shape.dim_in, eps=NORM_EPS)
        self.attn = MultiscaleAttention(shape, backend, class_token, positions)
        self.norm2 = ReadNorm(shape.dim_out, eps=NORM_EPS)
        self.mlp = NormMlp(shape.dim_out, 4 * shape.dim_out)
        self.drop_path = StochasticDepth(drop_path_rate)
        widens = shape.dim_in != shape.dim_out
        self.project = NormLinear(shape.dim_in, shape.dim_out) if widens else None

    def forward(
        self, tokens: Float[Tensor, "batch token dim"], layout: BlockLayout | None = None
    ) -> Float[Tensor, "batch token_out dim_out"]:
        """All tokens of the block's grid in raster order, or those that `layout` names. The result has the format of
        `tokens`: fp32, or bfloat16 for a stream that is to take half the memory.
        """
        layout = layout or self.attn.dense_layout
        whole = self.checkpointing == "blocks"
        scale = self.drop_path(tokens)
        tokens = remade(self._attend, tokens, scale, layout) if whole else self._attend(tokens, scale, layout)
        keep_hidden = self.checkpointing == "none"
        return self.norm2(tokens, reader=self.mlp, scale=self.drop_path(tokens), keep_hidden=keep_hidden)

    def _attend(self, tokens: Tensor, scale: Tensor | None, layout: BlockLayout) -> Tensor:
        remakes_projection = self.checkpointing == "selective" and self.shape.dim_in <= CHEAP_DIM
        skip = None
        if self.project is not None:
            skip, tokens = self.norm1(tokens, reader=self.project, hands_on=True)
        if self.shape.query_stride > 1:
            skip = pool_skip(tokens if skip is None else skip, layout)
        return self.attn(tokens, self.norm1, layout, remakes_projection, Residual(skip, scale))


def pool_skip(
    tokens: Float[Tensor, "batch token dim"], layout: BlockLayout
) -> Float[Tensor, "batch token_out dim"]:
    """The maximum under each query's 3x3 cells; tokens past the picture's edge never win."""
    if layout.edges is None:
        return max_pool_tokens(tokens, layout.query)
    pooled = max_pool_tokens(fill_outside(tokens, layout.edges.tokens, -torch.inf), layout.query)
    return fill_outside(pooled, layout.edges.queries, 0.0)
