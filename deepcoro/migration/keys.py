"""Every key of DeepCORO_CLIP's configs (9784a00, 2026-03-26, and of its branches) and what becomes of it: the one table, as data.

`mapped`: the same meaning under our name. `changed`: taken over, and something is different on purpose, which the sentence says.
`dropped`: has no counterpart, for the reason that the sentence gives.
"""

from typing import Literal, NamedTuple

from deepcoro.migration import conversions as to
from deepcoro.migration.conversions import PROBE, Conversion

Fate = Literal["mapped", "changed", "dropped"]


class Key(NamedTuple):
    fate: Fate
    why: str = ""
    convert: Conversion | None = None


def _same(key: str, ours: str, why: str = "") -> Key:
    return Key("changed" if why else "mapped", why, to.copied(key, ours))


def _no(why: str) -> Key:
    return Key("dropped", why)


_LAUNCHER = "set by the launcher (accelerate)"
_UNUSED = "read by nothing in the predecessor either"
_IGNORED = "no field of the predecessor's config: it dropped the key in silence"
_COSINE = "the schedule is warm-up and cosine (optim.warmup_fraction, optim.final_lr_fraction)"
_ONE_DECAY = "one weight decay for all matrices, none for norms, biases and tables: optim.weight_decay"
_LEARNED_SCALE = (
    "the scale is learned and bounded (min_logit_scale, max_logit_scale); schedules of it are not supported"
)
_NEVER_APPLIED = (
    "never applied by the predecessor (W13); here: `freeze`, phases in optimiser steps or shares of the run"
)
_SEARCH = "retrieval is `tools/search.py` over the bank that run_mode=inference writes; docs/inference.md"
_COLUMN = "columns of texts.csv and edges.csv have fixed names (docs/objectives.md): rename the column if yours differs"
_SEVERITY = "weights of severity are weights of edges (column weight of edges.csv), made once in the table"
_LOCCA = "never instantiated by the predecessor; objectives.captioning has its tasks (finding of a segment, place of a finding)"
_NO_GRADIENT = "had no gradient (W23): nothing was trained by it; clinical_findings measures the same on generated reports"
_POOLER_LR = "the pooler trains at optim.lr"
_TABLE_OF_STATS = (
    "grey levels are measured over all training films when they are sharded (the predecessor: at most 4, W26)"
)
_ENTROPY = "not supported: the entropy term is of a loss that no shipped recipe could start"

# fmt: off
BASE: dict[str, Key] = {
    "pipeline_project": Key(
        "changed", "becomes `objectives`; a contrastive run's text tower trains at 2e-5, written into the predecessor's code (optim.text_lr); "
        "evaluation every 500 optimiser steps in place of every epoch (evaluate.every_steps)", to.project,
    ),
    "base_checkpoint_path": Key("changed", "run_dir is this folder and the run's name, without W&B id and time", to.run_dir),
    "run_mode": _same("run_mode", "run_mode"),
    "epochs": _same("epochs", "epochs"),
    "seed": _same("seed", "seed"),
    "name": Key("changed", "the last part of run_dir, which is the W&B run's name"),
    "project": _same("project", "tracking.wandb_project"),
    "entity": _same("entity", "tracking.wandb_entity"),
    "tag": _no("never reached W&B in the predecessor; a run is named by run_dir"),
    "use_wandb": _same("use_wandb", "tracking.use_wandb"),
    "device": _no(_LAUNCHER),
    "world_size": _no(_LAUNCHER),
    "is_ref_device": _no(_LAUNCHER),
}

_DATA: dict[str, Key] = {
    "data_filename": Key("changed", "films are sharded once (`tools/shard_dataset.py --csv FILE --output data.shards`); the CSV is read as it is", to.shards),
    "datapoint_loc_label": Key("changed", "`tools/shard_dataset.py --path_column`, where the column is not found by itself"),
    "frames": Key("changed", "MViT has 16 whatever the predecessor's config says", to.frames),
    "stride": Key(
        "changed", "frames come from the whole film; stride 1 showed the same ones each time (jitter: false), a larger one random ones, also in "
        "validation (W25), which here never draws", to.jitter,
    ),
    "resize": _same("resize", "data.fields.video.size_px"),
    "rand_augment": Key("changed", "RandAugment becomes `augment`, on the device, never in evaluation (W24)", to.augment),
    "num_workers": _same("num_workers", "data.num_workers"),
    "batch_size": _same("batch_size", "batch_size", "per GPU; counts studies where data.multi_video, clips else, as before"),
    "multi_video": _same("multi_video", "data.multi_video"),
    "num_videos": Key("changed", "padded clips are masked everywhere (W20: they were data)", to.num_videos),
    "groupby_column": Key("changed", "`tools/shard_dataset.py --study_column`, where the column is not found by itself"),
    "shuffle_videos": _no("the order of a study's clips changes nothing here; which are taken is drawn by seed"),
    "aggregate_videos_tokens": _no("towers hand over all tokens of all clips; the pooler and the objectives say what they read"),
    "per_video_pool": _no("as aggregate_videos_tokens"),
    "model_name": Key(
        "changed", "mvit is the default tower (mvit_v2_s); mvit_rope becomes positions: rope3d (W19: the predecessor's never turned anything); "
        "r3d, x3d_s and x3d_m have no counterpart: take mvit_v2_s or towers.video.type=video_timm", to.rope,
    ),
    "pretrained": _no("name the file of torchvision's mvit_v2_s: towers.video.weights=FILE"),
    "num_heads": Key("changed", "heads of the aggregator, which is the pooler `transformer` of runs on studies"),
    "aggregator_depth": Key("changed", "pooler.layers of the pooler `transformer`, without positions: the order of clips changes nothing", to.aggregator),
    "dropout": _no("it was of the projection, twice, and of the aggregator; drop_path of the tower regularises (towers.video.drop_path_rate)"),
    "optimizer": _no("AdamW (fused) alone"),
    "scheduler_name": _no(_COSINE),
    "lr_step_period": _no(_COSINE),
    "factor": _no(_COSINE),
    "num_warmup_percent": Key("changed", "a fraction of the optimiser steps; schedules without `warmup` in their name had none", to.warmup),
    "num_hard_restarts_cycles": _no(_COSINE),
    "warm_restart_tmult": _no(_COSINE),
    "gradient_accumulation_steps": _same(
        "gradient_accumulation_steps", "gradient_accumulation_steps",
        "one batch of that size for the contrastive loss too (gradient_cache); multitask ignored it (W40)",
    ),
    "use_amp": Key("changed", "bf16 in the whole network; the predecessor's fp16 left the backbone in fp32 (W50)", to.precision),
}

_TOWERS: dict[str, Key] = {
    "lr": _same("lr", "optim.lr", "of tower, pooler and projections; the predecessor's aggregator had twice as much"),
    "debug": _no("`tools/shard_dataset.py` opens and verifies every film once"),
    "temperature": Key("changed", "its reciprocal, learned from there", to.temperature),
    "max_grad_norm": _same("max_grad_norm", "optim.max_grad_norm"),
    "root": Key("changed", "part of the path given to `tools/shard_dataset.py --csv`"),
    "target_label": Key("changed", "`tools/shard_dataset.py --report_column`, where the column is not found by itself"),
    "video_freeze_ratio": Key(
        "changed", "INVERTED: the predecessor trained this fraction of the tensors, ours is the fraction of blocks that is frozen",
        to.frozen("video_freeze_ratio", "towers.video.video_freeze_ratio"),
    ),
    "text_freeze_ratio": Key(
        "changed", "INVERTED: the predecessor trained this fraction of the tensors (0: all), ours is the fraction of blocks that is frozen",
        to.frozen("text_freeze_ratio", "towers.text.text_freeze_ratio", none_is_all=True),
    ),
    "video_pooling_mode": Key(
        "changed", "attention and cls_token are hierarchical poolers; mean is the tower's own class token (class_token: false = mean of the patches)",
        to.pooler_of_clip,
    ),
    "attention_pool_heads": Key("changed", "pooler.num_attention_heads of the pooler cls_token; gated attention has none"),
    "attention_pool_dropout": _no("poolers have no dropout of weights; pooler.view_dropout leaves whole clips out"),
    "video_weight_decay": _same("video_weight_decay", "optim.weight_decay", _ONE_DECAY),
    "text_weight_decay": _no(_ONE_DECAY),
    "period": _no(_UNUSED),
    "loss_name": Key(
        "changed", "by the formula that ran: siglip_ddp and multitask were softmax losses (clip); equal reports are positives (W27); "
        "objectives.contrastive.loss.type=siglip is the true sigmoid loss", to.loss_type,
    ),
    "recall_k": _same("recall_k", "evaluate.metrics.retrieval.recall_at", "both directions, with chance and intervals"),
    "ndcg_k": _no("R@k, MRR and median rank are measured, with chance beside them"),
    "apply_mask": _no(_UNUSED),
    "save_best": _no("evaluate.best_metric names what decides (text-to-video R@5), not the loss of a batch (W47)"),
    "resume_training": _no("a run goes on where its run_dir holds a checkpoint (resume: auto), exactly"),
    "checkpoint": _no("resume is by run_dir; to start from it: `tools/import_checkpoint.py FILE --output FOLDER`, towers.video.weights=FOLDER"),
    "topk": _no(_SEARCH),
    "text_embeddings_path": _no(_SEARCH),
    "metadata_path": _no(_SEARCH),
    "inference_results_path": _no("predictions and embeddings lie in run_dir"),
    "view_count": _no(_UNUSED),
    "encoder_path": Key("changed", "the encoder that `tools/import_checkpoint.py` takes out of it, and films as they looked (data.fields.video.preset)", to.weights("encoder_path")),
    "use_rope": Key("changed", "positions: rope3d, without W19; it takes the place of relative positions", to.rope),
    "rope_base": _no("fixed, as is usual"),
    "rope_temporal_scale": _no("it scaled the base, not the time; fixed"),
    "rope_normalize_mode": _no(_UNUSED),
    "use_cls_token": _no("made a parameter that nothing read; the tower's own class token speaks for a clip"),
}

CLIP_KEYS: dict[str, Key] = {
    **BASE,
    **_DATA,
    **_TOWERS,
    "persistent_workers": _no("loader processes always stay"),
    "prefetch_factor": _no("the loader reads ahead by itself"),
    "temperature_schedule": _no(_LEARNED_SCALE),
    "temperature_start": _no(_LEARNED_SCALE),
    "temperature_end": _no(_LEARNED_SCALE),
    "temperature_warmup_epochs": _no(_LEARNED_SCALE),
    "learnable_temperature": _no("the scale is always learned"),
    "max_logit_scale": Key("changed", "ignored by the predecessor (W43), holds here", to.max_logit_scale),
    "video_freeze_schedule": _no(_NEVER_APPLIED),
    "video_freeze_start": _no(_NEVER_APPLIED),
    "video_freeze_end": _no(_NEVER_APPLIED),
    "video_freeze_warmup_epochs": _no(_NEVER_APPLIED),
    "text_freeze_schedule": _no(_NEVER_APPLIED),
    "text_freeze_start": _no(_NEVER_APPLIED),
    "text_freeze_end": _no(_NEVER_APPLIED),
    "text_freeze_warmup_epochs": _no(_NEVER_APPLIED),
    "siglip_texts_path": Key("changed", "the field `texts`; scrubbed like reports", to.texts),
    "siglip_edges_path": Key(
        "changed", "edges, or the videos table with positive_text_ids where none is named (then W2 kept SigLIP off); film ids have to be keyed "
        "(`tools/relink.py --to_keyed`)",
    ),
    "siglip_video_id_column": _no(_COLUMN),
    "siglip_text_id_column": _no(_COLUMN),
    "siglip_prompt_text_column": _no(_COLUMN),
    "siglip_prompt_type_column": _no(_COLUMN),
    "siglip_soft_weight_column": _no(_COLUMN),
    "siglip_edge_weight_column": _no(_COLUMN),
    "siglip_negatives_per_video": Key(
        "changed", "never used in training by the predecessor; here texts of the table that no edge joins",
        to.of_texts("siglip_negatives_per_video", "num_negatives", 0),
    ),
    "siglip_negative_weight": _no("every pair counts once; edges carry weights"),
    "siglip_pos_samples_per_video": Key("mapped", "", to.of_texts("siglip_pos_samples_per_video", "num_positives", 1)),
    "siglip_round_robin_sampling": _no("positives are drawn by seed and position, the same on any number of ranks"),
    "siglip_debug_batches": _no("run_dir/positives.html shows what was matched"),
    "siglip_debug_every": _no("run_dir/positives.html shows what was matched"),
    "siglip_debug_sample_count": _no("run_dir/positives.html shows what was matched"),
    "siglip_use_weighted_loss": Key("changed", "true: the softmax loss (clip) with several positives; false: siglip", to.loss_type),
    "siglip_abnormal_margin": _no("fault not repeated: it was added to the logits of positives and negatives alike"),
    "siglip_use_class_aware_sampler": _no("data.balance=label with data.balance_by=COLUMN; ranks stay of equal length (W42)"),
    "siglip_abnormal_ratio": _no("data.balance_power says how far classes are evened out"),
    "siglip_sampler_seed": _no("`seed` settles every draw"),
    "siglip_positive_loss_weight": _no(_SEVERITY),
    "siglip_negative_loss_weight": _no(_SEVERITY),
    "siglip_enable_severity_weighting": _no(_SEVERITY),
    "siglip_positive_severity_weights": _no(_SEVERITY),
    "siglip_auto_positive_loss_weight": _no(_SEVERITY),
    "siglip_bias_init": Key("mapped", "", to.bias),
    "siglip_learnable_bias": _no("the bias always trains (W18: it never did)"),
    "siglip_entropy_regularization": _no(_ENTROPY),
    "siglip_entropy_weight": _no(_ENTROPY),
    "siglip_min_entropy_threshold": _no(_ENTROPY),
    "siglip_gather_in_ddp": _no("ranks always share their rows, with exact gradients (W15, W17)"),
    "siglip_max_positive_per_video": _no("siglip_pos_samples_per_video says how many are drawn (num_positives)"),
    "siglip_max_segments_per_video": _no("num_positives says how many are drawn"),
    "siglip_normal_as_negative": _no("a text without an edge is a negative, normal or not"),
    "early_stop_patience": Key("changed", "evaluations without a better evaluate.best_metric, not epochs", to.early_stop),
}

MULTITASK_KEYS: dict[str, Key] = {
    **BASE,
    **_DATA,
    **_TOWERS,
    "output_dir": _no("run_dir"),
    "vocab_size": _no("that of the text tower's tokenizer"),
    "decoder_layers": _same("decoder_layers", "objectives.captioning.decoder_layers"),
    "decoder_heads": _same("decoder_heads", "objectives.captioning.decoder_heads", "the decoder is 768 wide (decoder_dim), it was 512"),
    "decoder_intermediate_size": _no("four times the decoder's width"),
    "max_position_embeddings": _no("max_tokens of data.fields.caption"),
    "use_biomed_tokenizer": _no("that of the text tower"),
    "max_text_length": Key("changed", "texts are cut there and padded to the longest of the batch only (W51)", to.text_length),
    "max_generation_length": Key("mapped", "", to.generation_length),
    "captioning_do_sample": Key("changed", "nucleus, without top-k and repetition penalty", to.sampled),
    "captioning_temperature": _same("captioning_temperature", "objectives.captioning.generation.temperature"),
    "mvm_decoder_hidden_size": _same("mvm_decoder_hidden_size", "objectives.masked_modeling.decoder_dim"),
    "mvm_decoder_layers": _same("mvm_decoder_layers", "objectives.masked_modeling.decoder_layers"),
    "mvm_decoder_heads": _same("mvm_decoder_heads", "objectives.masked_modeling.decoder_heads"),
    "mask_ratio": _same("mask_ratio", "objectives.masked_modeling.mask_ratio", "of the film, before the encoder sees it (W21: of its output)"),
    "mask_token_learnable": _no("always learned"),
    "norm_predict_loss": _no("pixels of each unit are normalised; latent targets by choice (objectives.masked_modeling.latent)"),
    "text_lr": _same("text_lr", "optim.text_lr"),
    "captioning_lr": _same("captioning_lr", "optim.captioning_lr"),
    "captioning_weight_decay": _no(_ONE_DECAY),
    "mvm_lr": _same("mvm_lr", "optim.mvm_lr"),
    "mvm_weight_decay": _no(_ONE_DECAY),
    "min_clip_views": _no("one clip of a study always stays"),
    "max_clip_views": _no("data.num_videos"),
    "clip_dropout_prob": Key("mapped", "", to.view_dropout),
    "single_clip_probability": _no("pooler.view_dropout leaves clips out one by one"),
    "consistency_loss_weight": _no("not supported: no loss between a study and one of its clips"),
    "shuffle_clip_order": _no("the order of clips changes nothing"),
    "contrastive_loss_type": _no("the predecessor ignored it; objectives.contrastive.loss.type"),
    "captioning_loss_type": _no("cross-entropy alone"),
    "masked_modeling_loss_type": _no("squared error alone"),
    "label_smoothing": _same("label_smoothing", "objectives.captioning.label_smoothing"),
    "ignore_index": _no("padding is never a target (W22: it was)"),
    "loss_weights": Key("changed", "distillation was unused; stenosis_mse and critical_bce " + _NO_GRADIENT, to.loss_weights),
    "use_loss_weight_scheduler": _no("`schedules`, in steps or shares of the run; the predecessor's stopped at the first step"),
    "initial_loss_weights": _no("schedules.NAME.ramp_from"),
    "final_loss_weights": _no("loss_weights"),
    "loss_warmup_steps": _no("schedules.NAME.start_step"),
    "loss_total_steps": _no("schedules.NAME.ramp_steps"),
    "loss_schedule_type": _no("ramps are linear (the predecessor's cosine ran backwards)"),
    "stats_batch_size": _no(_TABLE_OF_STATS),
    "stats_num_workers": _no(_TABLE_OF_STATS),
    "stats_prefetch_factor": _no(_TABLE_OF_STATS),
    "stats_max_samples": _no(_TABLE_OF_STATS),
    "multi_video_cls_aggregation": _no(_IGNORED),
    "patch_contrastive_weight": _no(_IGNORED),
    "use_stenosis_loss": _no(_NO_GRADIENT),
    "stenosis_mse_weight": _no(_NO_GRADIENT),
    "critical_bce_weight": _no(_NO_GRADIENT),
    "critical_threshold": _no(_NO_GRADIENT),
    "numeric_token_weight_multiplier": _no(_IGNORED),
}

PROBE_KEYS: dict[str, Key] = {
    **BASE,
    **_DATA,
    "output_dir": _no("run_dir"),
    "num_heads": _no("of the aggregator, whose output linear probing never read"),
    "aggregator_depth": _no("of the aggregator, whose output linear probing never read"),
    "target_label": Key("changed", "a head reads the label column of its name; another one: objectives.linear_probing.head_column"),
    "head_lr": Key("mapped", "", to.by_head("head_lr")),
    "head_weight_decay": Key("mapped", "", to.by_head("head_weight_decay")),
    "head_structure": _same("head_structure", f"{PROBE}.head_structure"),
    "loss_structure": Key(
        "changed",
        "bce_logit is bce; the focal losses are focal (W7: binary_focal ended in an error); rmse becomes mse; huber keeps delta 0.1; labels "
        "that are missing are masked", to.losses,
    ),
    "head_weights": Key("mapped", "", to.by_head("head_weights", default=1.0)),
    "head_dropout": Key("changed", "holds here; the predecessor never used it (W31)", to.by_head("head_dropout", default=0.0)),
    "head_task": Key("mapped", "", to.tasks),
    "labels_map": Key("changed", "words of a column to classes; of heads of a number, and where values are no whole numbers, left out", to.words),
    "video_encoder_lr": _same("video_encoder_lr", "optim.lr", "also of the pooler"),
    "video_encoder_weight_decay": _same("video_encoder_weight_decay", "optim.weight_decay", _ONE_DECAY),
    "video_freeze_ratio": Key(
        "changed", "INVERTED: the predecessor trained this fraction of the tensors (its 1.0 alone froze everything), ours is the fraction of blocks "
        "that is frozen", to.frozen_of_probe,
    ),
    "video_encoder_checkpoint_path": Key("changed", "the encoder that `tools/import_checkpoint.py` takes out of it, and films as they looked (data.fields.video.preset)", to.weights("video_encoder_checkpoint_path")),
    "pooling_mode": Key("changed", "patches are weighed too (hierarchical) where the encoder handed them over", to.pooler_of_probe),
    "attention_hidden": Key("mapped", "", to.hidden),
    "dropout_attention": _no("poolers have no dropout of weights; pooler.view_dropout leaves whole clips out"),
    "attention_lr": _no(_POOLER_LR),
    "attention_weight_decay": _no(_ONE_DECAY),
    "use_cls_token": _no("the pooler's type says it"),
    "num_attention_heads": Key("changed", "holds here, where it divides 768; the predecessor always had 8 (W31)", to.heads_of_pooler),
    "separate_video_attention": _no("clips and tokens each have an attention of their own"),
    "normalization_strategy": _no("norms come first"),
    "attention_within_lr": _no(_POOLER_LR),
    "attention_across_lr": _no(_POOLER_LR),
    "attention_within_weight_decay": _no(_ONE_DECAY),
    "attention_across_weight_decay": _no(_ONE_DECAY),
    "inference_model_path": Key("changed", "here its encoder, to train on; the whole model with its scores: `tools/import_checkpoint.py FILE --config OLD.yaml --run_dir RUN`", to.weights("inference_model_path")),
    "ci_confidence_level": _no("intervals are of 95 %"),
    "ci_n_bootstrap": _no("intervals are always there, of patients (evaluate.metrics.NAME.bootstrap_samples)"),
    "train_pooling_params": _no("poolers always train"),
    "view_column": Key("changed", "views are the two angles of the C-arm (field `view`), not classes; a film without angles has the usual ones of its view word", to.view_embedding),
    "num_view_classes": _no("as view_column"),
    "view_labels_map": _no("as view_column"),
    "view_embedding_lr": _no(_POOLER_LR),
    "view_embedding_weight_decay": _no(_ONE_DECAY),
    "dataset_mean": Key("mapped", "", to.constants),
    "dataset_std": Key("mapped"),
}

STRAY_KEYS: dict[str, Key] = {
    "data_mean": Key("changed", _IGNORED + "; holds here", to.constants),
    "data_std": Key("changed", _IGNORED + "; holds here"),
    "mean": Key("changed", _IGNORED + "; holds here", to.constants),
    "std": Key("changed", _IGNORED + "; holds here"),
    "Mean": Key("changed", _IGNORED + "; holds here", to.constants),
    "Std": Key("changed", _IGNORED + "; holds here"),
    "locca_enabled": _no(_LOCCA),
    "locca_num_layers": _no(_LOCCA),
    "locca_d_model": _no(_LOCCA),
    "locca_num_heads": _no(_LOCCA),
    "locca_dropout": _no(_LOCCA),
    "locca_max_seq_len": _no(_LOCCA),
    "locca_weight": _no(_LOCCA),
    "head_linear_probing": _no(_IGNORED + "; a head's task and loss say what it is"),
    "linear_probing_head": _no(_IGNORED + "; a head's task and loss say what it is"),
    "video_max_grad_norm": _no(_IGNORED + "; optim.max_grad_norm is of all gradients together"),
    "text_max_grad_norm": _no(_IGNORED + "; optim.max_grad_norm is of all gradients together"),
    "max_length": _no(_IGNORED + "; data.fields.report.max_tokens"),
}
"""In shipped YAML files, and in no config class."""
# fmt: on

TABLES = {"clip": CLIP_KEYS, "multitask": MULTITASK_KEYS, "linear_probing": PROBE_KEYS}


def key_of(kind: str, name: str) -> Key | None:
    """What becomes of a key in a config of this kind; None for a name that no config of the predecessor has."""
    found = TABLES[kind].get(name) or STRAY_KEYS.get(name)
    if found is not None:
        return found
    others = [other for other, table in TABLES.items() if name in table]
    return _no(f"a key of {' and '.join(others)} configs, which this one never read") if others else None
