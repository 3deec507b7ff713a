"""Parts of DeepCORO_CLIP's poolers, for weights that were trained there: each is the same function as the original in evaluation."""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn


class TokenProjection(nn.Module):
    """Every token through a linear map and a GELU: what DeepCORO_CLIP put on its encoder."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, embed_dim)
        self.activation = nn.GELU()

    def forward(self, tokens: Float[Tensor, "*set dim"]) -> Float[Tensor, "*set embedding"]:
        return self.activation(self.linear(tokens))


class LearnedToken(nn.Module):
    """What a learned token sees in the members of each set, with a norm after it and nothing added to it.

    `sees_itself`: the token is a member too, so that its weights over the others sum to less than 1.
    """

    def __init__(self, dim: int, num_heads: int, sees_itself: bool) -> None:
        super().__init__()
        self.sees_itself = sees_itself
        self.attention = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        token: Float[Tensor, "dim"],
        members: Float[Tensor, "*set member dim"],
        mask: Bool[Tensor, "*set member"] | None = None,
    ) -> tuple[Float[Tensor, "*set dim"], Float[Tensor, "*set member"]]:
        """Also the weight of each member, over its heads. A set needs a member in the mask unless the token sees itself."""
        sets = members.shape[:-2]
        flat = members.reshape(-1, *members.shape[-2:])
        hidden = None if mask is None else ~mask.reshape(len(flat), -1)
        query = repeat(token.to(flat.dtype), "dim -> set 1 dim", set=len(flat))
        if self.sees_itself:
            flat = torch.cat([query, flat], dim=1)
            hidden = None if hidden is None else nn.functional.pad(hidden, (1, 0), value=False)
        seen, weights = self.attention(query, flat, flat, key_padding_mask=hidden)
        seen, weights = self.norm(rearrange(seen, "set 1 dim -> set dim")), weights[:, 0]
        weights = weights[:, 1:] if self.sees_itself else weights
        return seen.reshape(*sets, -1), weights.reshape(*sets, -1)
