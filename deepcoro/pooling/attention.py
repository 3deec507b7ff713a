"""Attention over a set with a mask, in two forms: a gated score of each member, and a learned token that looks at them.

Both give one vector a set and the weights of its members, which sum to 1 over the mask (None = all) and are fp32 at least. Both start
with equal weights and learn from there.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class GatedAttention(nn.Module):
    """The weighted mean of the members. Ilse et al. 2018, arXiv:1802.04712, equation 9."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.content = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        self.score = nn.Linear(hidden_dim, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(
        self, members: Float[Tensor, "*set member dim"], mask: Bool[Tensor, "*set member"] | None = None
    ) -> tuple[Float[Tensor, "*set dim"], Float[Tensor, "*set member"]]:
        hidden = self.content(members).tanh() * self.gate(members).sigmoid()
        weights = masked_softmax(self.score(hidden).squeeze(-1), mask)
        return einsum(weights.to(members.dtype), members, "... member, ... member dim -> ... dim"), weights


class QueryAttention(nn.Module):
    """What one learned token sees in the members, with several heads; its weights are the mean of theirs."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.keys, self.values, self.project = (nn.Linear(dim, dim) for _ in range(3))
        self.query = nn.Parameter(torch.zeros(num_heads, dim // num_heads))

    def forward(
        self, members: Float[Tensor, "*set member dim"], mask: Bool[Tensor, "*set member"] | None = None
    ) -> tuple[Float[Tensor, "*set dim"], Float[Tensor, "*set member"]]:
        members = self.norm(members)
        keys, values = (
            rearrange(each(members), "... member (head part) -> ... head member part", head=len(self.query))
            for each in (self.keys, self.values)
        )
        scores = einsum(keys, self.query.to(keys.dtype), "... head member part, head part -> ... head member")
        scores = scores / self.query.shape[1] ** 0.5
        weights = masked_softmax(scores, None if mask is None else mask[..., None, :])
        seen = einsum(
            weights.to(values.dtype), values, "... head member, ... head member part -> ... head part"
        )
        return self.project(rearrange(seen, "... head part -> ... (head part)")), weights.mean(dim=-2)


def masked_softmax(
    scores: Float[Tensor, "*set member"], mask: Bool[Tensor, "*#set member"] | None
) -> Float[Tensor, "*set member"]:
    """Over the last axis; 0 outside of the mask, and everywhere in a set without members."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is None:
        return scores.softmax(dim=-1)
    # the lowest number, not -inf: an empty set would have NaN weights and gradients
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1) * mask
