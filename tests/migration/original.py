"""DeepCORO_CLIP's networks in evaluation, restated from their description out of torchvision's and torch's parts: what imports are held
against. Parameters are called as in its checkpoints."""

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from deepcoro.kernels.grid import strided
from deepcoro.mvit.shapes import VARIANTS

FRAMES, SIZE_PX, WIDTH = 16, 32, 32
MEAN, STD = 122.09, 28.79


def tiny_mvit():
    """torchvision's network in the shape of our variant `tiny`, its head taken out."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    shapes = VARIANTS["tiny"].block_shapes(strided((FRAMES // 2, SIZE_PX, SIZE_PX), 4))
    blocks = [
        MSBlockConfig(
            num_heads=shape.heads,
            input_channels=shape.dim_in,
            output_channels=shape.dim_out,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=[1, shape.query_stride, shape.query_stride],
            stride_kv=[1, shape.key_stride, shape.key_stride],
        )
        for shape in shapes
    ]
    switches = dict.fromkeys(("residual_pool", "rel_pos_embed", "proj_after_attn"), True)
    model = MViT((SIZE_PX, SIZE_PX), FRAMES, blocks, residual_with_cls_embed=False, dropout=0.0, **switches)
    model.head = nn.Identity()
    model.dim = shapes[-1].dim_out
    return model


def projection(dim):
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(dim, WIDTH), nn.GELU(), nn.Dropout(0.2))


class VideoEncoder(nn.Module):
    """Every token of the backbone, the class token among them, through the projection."""

    def __init__(self, pooling="mean", heads=4, depth=1):
        super().__init__()
        self.model = tiny_mvit()
        self.proj = projection(self.model.dim)
        self.aggregator = Aggregator(heads, depth)
        if pooling == "attention":
            self.attention_pool = AttentionPool()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.model.dim))  # read by nothing

    def tokens(self, films):
        """[study clip frame height width channel] -> [study clip token width]."""
        clips = films.flatten(0, 1).permute(0, 4, 1, 2, 3)
        patches = self.model.conv_proj(clips)
        grid, tokens = tuple(patches.shape[2:]), patches.flatten(2).transpose(1, 2)
        tokens = self.model.pos_encoding(tokens)
        for block in self.model.blocks:
            tokens, grid = block(tokens, grid)
        return self.proj(self.model.norm(tokens)).unflatten(0, films.shape[:2])

    def forward(self, films):
        tokens = self.tokens(films)
        if hasattr(self, "attention_pool"):
            clips = torch.stack([self.attention_pool(tokens[:, clip]) for clip in range(tokens.shape[1])], 1)
        else:
            clips = tokens.mean(2)
        return self.aggregator(clips)


class AttentionPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.attn = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens):
        seen = self.attn(self.query.expand(len(tokens), -1, -1), tokens, tokens)[0]
        return self.norm(seen)[:, 0]


class Aggregator(nn.Module):
    """Places, pre-norm blocks, a norm, and the softmax of dot products with one query. Nothing is masked (W20)."""

    def __init__(self, heads, depth):
        super().__init__()
        self.pos_encoding = nn.Parameter(torch.zeros(1, 8, WIDTH))
        self.blocks = nn.ModuleList(AggregatorBlock(heads) for _ in range(depth))
        self.final_ln = nn.LayerNorm(WIDTH)
        self.attn_query = nn.Parameter(torch.zeros(1, 1, WIDTH))

    def forward(self, clips):
        clips = clips + self.pos_encoding[:, : clips.shape[1]]
        for block in self.blocks:
            clips = block(clips)
        clips = self.final_ln(clips)
        return ((clips * self.attn_query).sum(2).softmax(1)[..., None] * clips).sum(1)


class AggregatorBlock(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Dropout(0.2), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, clips):
        normed = self.norm1(clips)
        clips = clips + self.attn(normed, normed, normed)[0]
        return clips + self.mlp(self.norm2(clips))


class MultiInstance(nn.Module):
    """Pooling of [study clip token width] (or [study clip width]) for heads; eight heads of attention whatever the config said."""

    def __init__(self, mode, heads, hidden=16):
        super().__init__()
        self.mode = mode
        if "attention" in mode:
            self.attention_V, self.attention_U = nn.Linear(WIDTH, hidden), nn.Linear(WIDTH, hidden)
            self.attention_w = nn.Linear(hidden, 1)
        if "cls_token" in mode:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
            for level in ("within", "across"):
                self.add_module(f"cls_attention_{level}", nn.MultiheadAttention(WIDTH, 8, batch_first=True))
                self.add_module(f"cls_norm_{level}", nn.LayerNorm(WIDTH))
        width = WIDTH * len(mode.split("+"))
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in heads.items()})

    def forward(self, features):
        pooled = self.pooled(features)
        return {name: head(pooled) for name, head in self.heads.items()}

    def pooled(self, features):
        halves = self.mode.split("+")
        if features.ndim == 4 and {"mean", "max"} & set(halves):
            features = features.mean(2)
        pools = {
            "mean": lambda clips: clips.mean(1),
            "max": lambda clips: clips.amax(1),
            "attention": self.attention,
            "cls_token": self.class_token,
        }
        return torch.cat([pools[half](features) for half in halves], -1)

    def attention(self, features):
        """The same gate for tokens and for clips."""
        return self.gated(self.gated(features) if features.ndim == 4 else features)

    def gated(self, members):
        scores = self.attention_w(self.attention_V(members).tanh() * self.attention_U(members).sigmoid())
        return (scores.softmax(-2) * members).sum(-2)

    def looked(self, level, members):
        """The learned token and the members all look at each other; the token's row is read, after a norm."""
        attention, norm = getattr(self, f"cls_attention_{level}"), getattr(self, f"cls_norm_{level}")
        row = torch.cat([self.cls_token.expand(len(members), -1, -1), members], 1)
        return norm(attention(row, row, row)[0])[:, 0]

    def class_token(self, features):
        if features.ndim == 4:
            features = self.looked("within", features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return self.looked("across", features)


class TextEncoder(nn.Module):
    """The class token of BERT's last layer, projected."""

    def __init__(self, vocabulary_size):
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=96,
            max_position_embeddings=256,
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.proj = projection(64)

    def forward(self, input_ids, attention_mask):
        told = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        return self.proj(told.last_hidden_state[:, 0])


@torch.no_grad()
def perturbed(module, seed=0, std=0.2):
    """Away from the start, where queries are zero and outputs are nearly equal; in evaluation."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(std * torch.randn_like(parameter))
    return module.eval()


def shown(path):
    """A film as the network got it: [frame height width channel], normalised. OpenCV decodes every frame."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while (answer := reader.read())[0]:
        frames.append(cv2.cvtColor(answer[1], cv2.COLOR_BGR2RGB))
    clip = torch.from_numpy(np.stack(frames)).float().permute(0, 3, 1, 2)
    if len(clip) < FRAMES:
        clip = torch.cat([clip, clip[-1:].expand(FRAMES - len(clip), -1, -1, -1)])
    clip = clip[torch.linspace(0, len(clip) - 1, FRAMES).long()]
    clip = functional.interpolate(clip, size=(SIZE_PX, SIZE_PX), mode="bilinear", antialias=True)
    return ((clip - MEAN) / STD).permute(0, 2, 3, 1)
