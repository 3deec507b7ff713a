"""Names of tensors in a checkpoint of DeepCORO_CLIP, and the names of ours that are the same numbers of the same function."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

_BOTH = (
    (r"video_encoder\.model\.(.+)", r"towers.video.\1"),
    (r"video_encoder\.proj\.1\.(.+)", r"pooler.projection.linear.\1"),
)
_CLIP = (
    (r"video_encoder\.attention_pool\.query", "pooler.query_of_tokens"),
    (r"video_encoder\.attention_pool\.attn\.(.+)", r"pooler.attention_of_tokens.attention.\1"),
    (r"video_encoder\.attention_pool\.norm\.(.+)", r"pooler.attention_of_tokens.norm.\1"),
    (r"video_encoder\.aggregator\.pos_encoding", "pooler.places"),
    (r"video_encoder\.aggregator\.attn_query", "pooler.query"),
    (r"video_encoder\.aggregator\.final_ln\.(.+)", r"pooler.norm.\1"),
    (r"video_encoder\.aggregator\.(blocks\.\d+\.norm[12]\..+)", r"pooler.\1"),
    (r"video_encoder\.aggregator\.(blocks\.\d+)\.attn\.in_proj_(.+)", r"pooler.\1.qkv.\2"),
    (r"video_encoder\.aggregator\.(blocks\.\d+)\.attn\.out_proj\.(.+)", r"pooler.\1.project.\2"),
    (r"video_encoder\.aggregator\.(blocks\.\d+\.mlp\.0\..+)", r"pooler.\1"),
    (r"video_encoder\.aggregator\.(blocks\.\d+\.mlp)\.3\.(.+)", r"pooler.\1.2.\2"),
    (r"text_encoder\.bert\.(.+)", r"towers.text.encoder.\1"),
    (r"text_encoder\.proj\.1\.(.+)", r"objectives.contrastive.text_projection.0.\1"),
)
_PROBE = (
    (r"mil_model\.attention_V\.(.+)", r"pooler.halves.attention.gate.content.\1"),
    (r"mil_model\.attention_U\.(.+)", r"pooler.halves.attention.gate.gate.\1"),
    (r"mil_model\.attention_w\.weight", "pooler.halves.attention.gate.score.weight"),
    (r"mil_model\.cls_token", "pooler.halves.cls_token.token"),
    (r"mil_model\.cls_attention_(within|across)\.(.+)", r"pooler.halves.cls_token.\1.attention.\2"),
    (r"mil_model\.cls_norm_(within|across)\.(.+)", r"pooler.halves.cls_token.\1.norm.\2"),
    (r"mil_model\.heads\.([^.]+)\.(.+)", r"objectives.linear_probing.heads.\1.linear.\2"),
)
NAMES = {"clip": _BOTH + _CLIP, "linear_probing": _BOTH + _PROBE}
"""By what is imported; the first pattern that a whole name fits."""

_UNUSED = {
    "clip": (
        (r"video_encoder\.cls_token", "a parameter that nothing read"),
        (r"text_encoder\.bert\.pooler\..+", "BERT's pooler, which was taken out there too"),
        (r".+\.position_ids", "counts 0, 1, 2, ...: no weight"),
        (r"video_encoder\.attention_pool\..+", "pooling of tokens that the config does not name"),
        (r"captioning_decoder\..+", "caption decoder: contrastive learning alone is imported"),
        (r"masked_video_modeling\..+", "decoder of tokens that were masked after the encoder (W21)"),
    ),
    "linear_probing": (
        (r"video_encoder\.cls_token", "a parameter that nothing read"),
        (r"video_encoder\.aggregator\..+", "aggregator, whose output linear probing never read"),
        (r"video_encoder\.attention_pool\..+", "pooling of tokens, which linear probing never built (W30)"),
        (r"mil_model\.attention_w\.bias", "one number added to every score, which a softmax does not see"),
        (
            r"mil_model\.(attention_|cls_).+",
            "of a pooling that the config's pooling_mode and token switches leave unused",
        ),
        (r"mil_model\.view_embedding\..+", "embedding of view classes, which the config does not turn on"),
        (r"mil_model\.heads\..+", "a head that the config's head_structure does not name"),
    ),
}
"""Why a tensor that is there is not used; the first pattern that its whole name fits."""
UNKNOWN = "no part of a model of the predecessor"


@dataclass(frozen=True)
class Renamed:
    """Every tensor of a checkpoint, once: under our name, or with why not."""

    used: dict[str, str]
    """Our name -> theirs."""
    unused: dict[str, list[str]]
    """Why -> their names."""
    missing: list[str]
    """Ours that the file has nothing for."""


def renamed(theirs: Mapping[str, Tensor], ours: Iterable[str], kind: str) -> Renamed:
    """`kind`: clip or linear_probing. `ours`: names of our model's tensors."""
    own, used, unused = set(ours), {}, {}
    for name in sorted(theirs):
        our_name = _first(NAMES[kind], name)
        if our_name in own:
            used[our_name] = name
        else:
            unused.setdefault(_first(_UNUSED[kind], name) or UNKNOWN, []).append(name)
    return Renamed(used, unused, sorted(own - used.keys()))


def by_part(names: Iterable[str]) -> str:
    """Names of tensors in few words: the first three parts of each, and how many begin so."""
    groups = Counter(".".join(name.split(".")[:3]) for name in names)
    return ", ".join(f"{group} ({number})" for group, number in sorted(groups.items()))


def _first(patterns: Iterable[tuple[str, str]], name: str) -> str | None:
    for pattern, made in patterns:
        found = re.fullmatch(pattern, name)
        if found is not None:
            return found.expand(made)
    return None
