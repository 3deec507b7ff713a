"""How single keys of a DeepCORO_CLIP config become keys of ours. Each takes the old config and gives {our dotted key: value}.

What has no meaning in the config at hand gives {}: our default stands. The sentences that tell the user are in `keys`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Old = Mapping[str, Any]
New = dict[str, Any]
Conversion = Callable[[Old], New]

KINDS = {
    "DeepCORO_clip": "clip",
    "DeepCORO_clip_test": "clip",
    "DeepCORO_multitask": "multitask",
    "DeepCORO_video_linear_probing": "linear_probing",
    "DeepCORO_video_linear_probing_test": "linear_probing",
    "DeepCORO_video_linear_probing_cardio_syntax": "linear_probing",
}
"""`pipeline_project` -> which of the predecessor's configs it is."""

POOLERS = {
    "mean": "mean",
    "max": "max",
    "attention": "attention",
    "cls_token": "cls_token",
    "mean+cls_token": "mean_cls_token",
    "attention+cls_token": "attention_cls_token",
}
HIERARCHICAL = ("attention", "cls_token", "attention_cls_token")
HAS_HEADS = ("cls_token", "mean_cls_token", "attention_cls_token")
WIDTH = 768
"""Of the video tower that imported configs name."""
TEXT_LR = 2e-5
"""The predecessor's contrastive trainer has it written into its code."""

# What RandAugment is taken for: mild, and never a mirror image or a change of left and right.
AUGMENT = {
    "crop_min_scale": 0.7,
    "rotation_deg": 10.0,
    "brightness": 0.1,
    "contrast": 0.2,
    "gamma": 0.2,
    "noise_std": 3.0,
}
SOFTMAX = (
    "clip",
    "contrastive",
    "contrastive_ddp",
    "infonce",
    "siglip_ddp",
    "multitask",
    "multi_positive_infonce",
)
"""Losses of the predecessor, in lower case, whose formula is a softmax over the batch, whatever their name says."""
PROBE = "objectives.linear_probing"
CLIP = "objectives.contrastive"


def kind_of(old: Old) -> str:
    return KINDS[old["pipeline_project"]]


def is_study_level(old: Old) -> bool:
    return bool(old.get("multi_video"))


def copied(key: str, to: str) -> Conversion:
    """The same value under another name; null stays our default."""
    return lambda old: {} if old[key] is None else {to: old[key]}


def frozen(key: str, to: str, none_is_all: bool = False) -> Conversion:
    """`1 - ratio`: the predecessor trained this fraction. `none_is_all`: its 0 trains everything."""

    def convert(old: Old) -> New:
        trained = float(old[key])
        return {to: 0.0 if none_is_all and trained == 0 else round(1 - trained, 6)}

    return convert


def frozen_of_probe(old: Old) -> New:
    """Its 1.0 froze the whole encoder, every smaller number is the fraction that trained."""
    trained = float(old["video_freeze_ratio"])
    return {"towers.video.video_freeze_ratio": 1.0 if trained == 1 else round(1 - trained, 6)}


def project(old: Old) -> New:
    kind = kind_of(old)
    if kind == "linear_probing":
        return {"evaluate.every_steps": 500}
    new: New = {f"{CLIP}": {}, "evaluate.every_steps": 500}
    if kind == "clip":
        return new | {"optim.text_lr": TEXT_LR}
    return new | {"objectives.captioning": {}, "objectives.masked_modeling": {}}


def run_dir(old: Old) -> New:
    """The predecessor's folder is named by W&B run and time; ours by the run's name."""
    name = old.get("name") or old.get("project") or old["pipeline_project"]
    return {"run_dir": str(Path(str(old["base_checkpoint_path"] or "runs")) / str(name))}


def weights(key: str) -> Conversion:
    """A checkpoint to start from or to apply, as `tools/import_checkpoint.py` will write it; its films look as they did."""

    def convert(old: Old) -> New:
        if not old[key]:
            return {}
        return {"towers.video.weights": f"imported/{key}", "data.fields.video.preset": "predecessor"}

    return convert


def shards(old: Old) -> New:
    return {"data.shards": f"shards/{Path(str(old['data_filename'])).stem}"}


def frames(old: Old) -> New:
    """MViT has 16 whatever the config says."""
    is_mvit = str(old.get("model_name", "mvit")).startswith("mvit")
    return {"data.fields.video.frames": 16 if is_mvit else old["frames"]}


def jitter(old: Old) -> New:
    """Stride 1 shows the same frames in every epoch, a larger one draws them."""
    return {"data.fields.video.jitter": int(old["stride"]) > 1}


def num_videos(old: Old) -> New:
    return {"data.num_videos": old["num_videos"]} if is_study_level(old) else {}


def rope(old: Old) -> New:
    wanted = old.get("use_rope") or old.get("model_name") == "mvit_rope"
    return {"towers.video.positions": "rope3d"} if wanted else {}


def size(old: Old) -> New:
    return {"data.fields.video.size_px": old["resize"]}


def augment(old: Old) -> New:
    return {f"augment.{key}": value for key, value in AUGMENT.items()} if old["rand_augment"] else {}


def temperature(old: Old) -> New:
    """Its reciprocal, and room for it."""
    scale = round(1 / float(old["temperature"]), 6)
    return {f"{CLIP}.loss.init_logit_scale": scale} | _room(old, scale)


def _room(old: Old, scale: float) -> New:
    most = float(old.get("max_logit_scale") or 100)
    return {f"{CLIP}.max_logit_scale": max(most, scale)}


def max_logit_scale(old: Old) -> New:
    return _room(old, round(1 / float(old.get("temperature") or 1), 6))


def loss_type(old: Old) -> New:
    """The loss that ran; with SigLIP tables the runner chose it without asking `loss_name`."""
    if old.get("siglip_texts_path"):
        return {f"{CLIP}.loss.type": "clip" if old.get("siglip_use_weighted_loss") else "siglip"}
    is_softmax = str(old["loss_name"]).lower() in SOFTMAX
    return {f"{CLIP}.loss.type": "clip" if is_softmax else "siglip"}


def bias(old: Old) -> New:
    is_siglip = (
        loss_type(dict(old) | {"loss_name": old.get("loss_name", "clip")})[f"{CLIP}.loss.type"] == "siglip"
    )
    return {f"{CLIP}.loss.init_logit_bias": old["siglip_bias_init"]} if is_siglip else {}


def precision(old: Old) -> New:
    return {"precision": "bf16" if old["use_amp"] else "fp32"}


def warmup(old: Old) -> New:
    """Only schedules with `warmup` in their name had one."""
    has_warmup = "warmup" in str(old.get("scheduler_name", ""))
    return {"optim.warmup_fraction": float(old["num_warmup_percent"])} if has_warmup else {}


def early_stop(old: Old) -> New:
    patience = int(old["early_stop_patience"] or 0)
    return {"evaluate.early_stop_patience": patience} if patience else {}


def pooler_of_clip(old: Old) -> New:
    """Pooling of a clip's tokens; between clips the aggregator."""
    mode = old["video_pooling_mode"]
    if mode in ("attention", "cls_token"):
        return {"pooler.type": mode, "pooler.hierarchical": True} | _heads(
            "pooler", old.get("attention_pool_heads"), mode
        )
    return {}


def aggregator(old: Old) -> New:
    """A transformer over the clips of a study; one clip needs none, and token pooling brings its own."""
    if not is_study_level(old) or old.get("video_pooling_mode", "mean") != "mean":
        return {}
    heads = (
        {}
        if WIDTH % int(old.get("num_heads") or 8)
        else {"pooler.num_attention_heads": int(old.get("num_heads") or 8)}
    )
    return {"pooler.type": "transformer", "pooler.layers": int(old["aggregator_depth"])} | heads


def _heads(block: str, number: Any, mode: str) -> New:
    fits = number and mode in HAS_HEADS and WIDTH % int(number) == 0
    return {f"{block}.num_attention_heads": int(number)} if fits else {}


def heads_of_pooler(old: Old) -> New:
    return _heads("pooler", old["num_attention_heads"], POOLERS.get(old.get("pooling_mode", "mean"), ""))


def pooler_of_probe(old: Old) -> New:
    """Hierarchical where the encoder handed over the tokens of each clip, not one vector a clip."""
    kind = POOLERS[old["pooling_mode"]]
    hands_tokens = not old.get("aggregate_videos_tokens", True) and not old.get("per_video_pool", False)
    return {"pooler.type": kind} | (
        {"pooler.hierarchical": True} if hands_tokens and kind in HIERARCHICAL else {}
    )


def hidden(old: Old) -> New:
    is_gated = "attention" in str(old.get("pooling_mode", ""))
    return {"pooler.hidden_dim": old["attention_hidden"]} if is_gated else {}


def view_embedding(old: Old) -> New:
    return {"pooler.view_embedding": True} if old["view_column"] else {}


def view_dropout(old: Old) -> New:
    return {"pooler.view_dropout": old["clip_dropout_prob"]} if is_study_level(old) else {}


def texts(old: Old) -> New:
    """Prompts of a table in the place of reports; without edges the table of films says whose they are."""
    if not old["siglip_texts_path"]:
        return {}
    edges = old.get("siglip_edges_path") or old.get("data_filename")
    report = "data.fields.report"
    return {f"{report}.type": "texts", f"{report}.texts": old["siglip_texts_path"], f"{report}.edges": edges}


def of_texts(key: str, name: str, least: int) -> Conversion:
    """A number of the field of texts, where there is one."""

    def convert(old: Old) -> New:
        fits = old.get("siglip_texts_path") and int(old[key] or 0) >= least
        return {f"data.fields.report.{name}": int(old[key])} if fits else {}

    return convert


def text_length(old: Old) -> New:
    fields = ("data.fields.report", "data.fields.caption")
    return {f"{field}.max_tokens": old["max_text_length"] for field in fields}


def sampled(old: Old) -> New:
    return {"objectives.captioning.generation.method": "nucleus"} if old["captioning_do_sample"] else {}


def loss_weights(old: Old) -> New:
    """Of the objectives that are there; one of weight 0 is left out, which costs nothing."""
    given = {name: float(weight) for name, weight in (old["loss_weights"] or {}).items()}
    ours = ("contrastive", "captioning", "masked_modeling")
    weights = {f"loss_weights.{name}": given[name] for name in ours if given.get(name)}
    left_out = {f"objectives.{name}": None for name in ours if given.get(name) == 0}
    return weights | left_out


def by_head(key: str, default: float | None = None) -> Conversion:
    """A dictionary by head; one that says the same of all is one line."""

    def convert(old: Old) -> New:
        given, heads = old[key], list(old.get("head_structure") or {})
        if not isinstance(given, Mapping):  # older configs have one number
            given = dict.fromkeys(heads, given)
        given = {head: value for head, value in given.items() if head in heads and value is not None}
        return {f"{PROBE}.{key}": _together(given, heads, default)}

    return convert


def _together(given: dict[str, Any], heads: list[str], default: Any = None) -> dict[str, Any]:
    values = list(given.values())
    if set(given) == set(heads) and len(heads) > 1 and all(value == values[0] for value in values):
        given = {"*": values[0]}
    return {head: value for head, value in given.items() if value != default}


LOSSES = {
    "bce_logit": "bce",
    "binary_focal": "focal",
    "multiclass_focal": "focal",
    "rmse": "mse",
    "huber": {"type": "huber", "delta": 0.1},
}
"""What is not named as here. Huber's delta is written into the predecessor's code."""
TASKS = {"binary": "binary_classification", "multiclass": "multiclass_classification"}


def losses(old: Old) -> New:
    named = {head: LOSSES.get(loss, loss) for head, loss in old["loss_structure"].items()}
    return {f"{PROBE}.loss_structure": _together(named, list(old.get("head_structure") or {}))}


def tasks(old: Old) -> New:
    """`classification` of older configs is binary or of classes by the head's size."""
    sizes = old.get("head_structure") or {}
    named = {}
    for head, task in old["head_task"].items():
        if task == "classification":
            task = "binary" if sizes.get(head, 1) == 1 else "multiclass"
        named[head] = TASKS.get(task, task)
    named = {head: task for head, task in named.items() if head in sizes}
    return {f"{PROBE}.head_task": _together(named, list(sizes))}


def words(old: Old) -> New:
    """Maps whose values are classes; a head of a number needs none, and some configs have remarks there."""
    sizes, maps = old.get("head_structure") or {}, {}
    for head, given in (old["labels_map"] or {}).items():
        is_number = (old.get("head_task") or {}).get(head) == "regression"
        numbers = [_whole(number) for number in given.values()] if isinstance(given, Mapping) else [None]
        if head in sizes and not is_number and None not in numbers:
            maps[head] = dict(zip(map(_word, given), numbers, strict=True))
    return {f"{PROBE}.labels_map": maps}


def _whole(number: Any) -> int | None:
    text = str(number)
    return int(text) if text.isdigit() else None


def _word(word: Any) -> Any:
    return word


def constants(old: Old) -> New:
    """Mean and deviation of the grey levels, where both are given; of three channels the first, as the predecessor did."""
    names = (("dataset_mean", "dataset_std"), ("data_mean", "data_std"), ("mean", "std"), ("Mean", "Std"))
    for mean, std in names:
        if old.get(mean) is not None and old.get(std) is not None:
            return {
                "normalisation.pixel_mean": _first(old[mean]),
                "normalisation.pixel_std": _first(old[std]),
            }
    return {}


def _first(value: Any) -> float:
    return float(value[0] if isinstance(value, list) else value)


def generation_length(old: Old) -> New:
    return {"objectives.captioning.generation.max_new_tokens": old["max_generation_length"]}
