"""A transformer block over the members of a set."""

from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class SetBlock(nn.Module):
    """Attention among the members of each set, then an MLP four times as wide, each after its norm."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, members: Float[Tensor, "set member dim"], mask: Bool[Tensor, "set member"]
    ) -> Float[Tensor, "set member dim"]:
        q, k, v = rearrange(
            self.qkv(self.norm1(members)),
            "set m (of head part) -> of set head m part",
            of=3,
            head=self.num_heads,
        )
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        members = members + self.dropout(
            self.project(rearrange(seen, "set head m part -> set m (head part)"))
        )
        return members + self.dropout(self.mlp(self.norm2(members)))
