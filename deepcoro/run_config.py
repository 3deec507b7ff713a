"""RunConfig: the root of the configuration tree. Blocks of the choice folders hang below it; shared keys are documented here."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic

from deepcoro.augment import Config as Augment
from deepcoro.averages import Config as Ema
from deepcoro.config import Block, ConfigError, dump, parse, read_tree, typed_by_key
from deepcoro.contradictions import refuse_changing_films, refuse_contradictions
from deepcoro.data.config import Data
from deepcoro.groups import Edges
from deepcoro.implied import with_needs
from deepcoro.metrics import (
    Metric,
    alignment_uniformity,
    calibration,
    captioning,
    classification,
    clinical_findings,
    reconstruction,
    regression,
    retrieval,
    survival,
    zero_shot,
)
from deepcoro.normalisation import Config as Normalisation
from deepcoro.objectives import Objective, contrastive
from deepcoro.poolers import Pooler, mean
from deepcoro.profiling import Profile
from deepcoro.resumable import changed_keys
from deepcoro.schedules import FreezePhase, Schedule
from deepcoro.skipped import Config as NonFinite
from deepcoro.towers import TextTower, VideoTower, text_hf, video_mvit

# What people write alone, and the key it stands for.
SHORTHANDS = {"checkpoint": "checkpoint.load", "use_wandb": "tracking.use_wandb"}


class Towers(Block):
    """The encoders."""

    video: VideoTower = video_mvit.Config()
    """Encoder of films."""
    text: TextTower | None = text_hf.Config()
    """Encoder of reports; null, and left out whatever is written here, where no objective reads texts."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _default_types(cls, value: Any) -> Any:
        defaults = {"video": "video_mvit"}
        if not isinstance(value, dict):
            return value
        return {
            key: {"type": defaults[key]} | block if isinstance(block, dict) and key in defaults else block
            for key, block in value.items()
        }


class Optim(Block):
    """AdamW with warm-up and cosine decay, counted in optimiser steps."""

    lr: float = pydantic.Field(default=1e-4, gt=0)
    """Peak learning rate of the video tower, the pooler and the heads."""
    text_lr: float | None = pydantic.Field(default=None, gt=0)
    """Peak learning rate of the text tower; unset = lr."""
    captioning_lr: float | None = pydantic.Field(default=None, gt=0)
    """Peak learning rate of what objectives of type captioning own (their decoder); unset = lr. Logged as lr/NAME."""
    mvm_lr: float | None = pydantic.Field(default=None, gt=0)
    """Peak learning rate of what objectives of type masked_modeling own (decoder, mask tokens); unset = lr. Logged as lr/NAME."""
    head_lr: float | None = pydantic.Field(default=None, gt=0)
    """Peak learning rate of the heads of linear_probing, where its own head_lr names none; unset = lr. Logged as lr/NAME."""
    head_weight_decay: float | None = pydantic.Field(default=None, ge=0)
    """Weight decay of these heads, where linear_probing's own head_weight_decay names none; unset = weight_decay."""
    layer_decay: float = pydantic.Field(default=1.0, gt=0, le=1)
    """Layer-wise decay of the video tower's learning rate: layer i of L has lr * layer_decay^(L - i); 0 is the embedding, L the last
    norm. For fine-tuning public weights (0.75 to 0.9); 1 = one rate for all. Logged as lr/video/layer_NN."""
    text_layer_decay: float = pydantic.Field(default=1.0, gt=0, le=1)
    """The same for the text tower, of text_lr."""
    weight_decay: float = pydantic.Field(default=0.05, ge=0)
    """Decoupled weight decay of matrices and kernels; norms, biases, scalars and tables have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moment decay rates."""
    eps: float = pydantic.Field(default=1e-6, gt=0)
    """AdamW's denominator floor."""
    warmup_steps: int | None = pydantic.Field(default=None, ge=0)
    """Optimiser steps of linear warm-up; unset = warmup_fraction of the run."""
    warmup_fraction: float = pydantic.Field(default=0.05, ge=0, le=1)
    """Share of the run's steps that warm up, where warmup_steps is unset."""
    final_lr_fraction: float = pydantic.Field(default=0.0, ge=0, le=1)
    """Learning rate at the last step as a fraction of its peak."""
    max_grad_norm: float = pydantic.Field(default=1.0, gt=0)
    """Gradients are scaled down to this global L2 norm."""


class Checkpoint(Block):
    """When weights are written and which are read."""

    every_steps: int = pydantic.Field(default=500, ge=1)
    """A checkpoint at every step that this divides; the last step is always saved."""
    every_minutes: float | None = pydantic.Field(default=None, gt=0)
    """Also when the last one is this old; unset = steps alone decide."""
    keep: int = pydantic.Field(default=2, ge=2)
    """Newest checkpoints kept; the best is kept as well. At least two, so that a broken newest one loses nothing."""
    keep_every_steps: int | None = pydantic.Field(default=None, ge=1)
    """Checkpoints of steps that this divides are never removed; unset = they go as the others do."""
    in_background: bool = True
    """Training goes on while a checkpoint is written: the loop waits for a copy into rank 0's host memory (12 bytes a parameter), not for
    the disk. false: it waits for both, and the copy is gone before the next step."""
    load: str = "best"
    """Checkpoint that val, test and inference read: best (told and the newest, where no evaluation named a best one), last or step_N.
    `checkpoint=last` is short for this key."""


class Evaluate(Block):
    """Evaluation during training and by itself."""

    defaults_stay: ClassVar[tuple[str, ...]] = ("metrics",)

    every_steps: int | None = pydantic.Field(default=None, ge=1)
    """Optimiser steps between evaluations on the val split; unset = only at the end."""
    batch_size: int | None = pydantic.Field(default=None, ge=1)
    """Samples per GPU in evaluation; unset = batch_size of training."""
    metrics: dict[str, Metric] = {
        "retrieval": retrieval.Config(),
        "zero_shot": zero_shot.Config(),
        "alignment_uniformity": alignment_uniformity.Config(),
        "captioning": captioning.Config(),
        "clinical_findings": clinical_findings.Config(),
        "reconstruction": reconstruction.Config(),
        "classification": classification.Config(),
        "regression": regression.Config(),
        "calibration": calibration.Config(),
        "survival": survival.Config(),
    }
    """What is measured; the key is the metric's prefix and default `type`. `false` takes a default metric out. Those of captions
    measure nothing in a run without a captioning objective, reconstruction nothing without masked_modeling, classification, regression,
    calibration and survival nothing without heads (linear_probing), the others nothing without a contrastive objective."""
    training_reports: int = pydantic.Field(default=5000, ge=0)
    """Training samples whose reports are the controls of captions (the most common one of the side, the nearest one), drawn by seed;
    0 = no such controls."""
    by: list[str] = ["status", "stent_presence", "sex", "age", "vendor", "dominance", "num_films"]
    """Label columns whose values are groups: every metric is measured within each group too (`by/status=PCI/...`), since wires,
    balloons and stents give answers away, and since a model may serve some patients worse. These count where the data have them
    (`num_films`: films of a study, shown or not, where a row is a study). Evaluations during training look at status and stent_presence alone."""
    by_bins: dict[str, Edges] = {"age": [50.0, 65.0, 75.0], "num_films": [3.0, 6.0]}
    """Edges, ascending, that make groups of a column of numbers: 50 belongs to `50 to 65`."""
    by_min_patients: int = pydantic.Field(default=10, ge=1)
    """Groups of fewer patients are listed with their size only."""
    best_metric: str = "retrieval/text_to_video/R@5"
    """Key of results.json that names the best checkpoint. Unset without contrastive: heads' macro/auroc (of one: auroc; else macro_auroc, pearson_r), captioning/cider_d, or error of hidden parts."""
    best_metric_mode: Literal["max", "min"] = "max"
    """Whether a higher or a lower best_metric is better. Unset = as its name says: min for errors (mae, rmse, brier, ...), else max."""
    early_stop_patience: int | None = pydantic.Field(default=None, ge=1)
    """Evaluations (every_steps) without a better best_metric after which training stops; unset = never."""
    num_examples: int = pydantic.Field(default=6, ge=0)
    """Searches, generated reports and errors of heads, so many of each, with film strips in report.html: share it with care."""

    @pydantic.field_validator("metrics", mode="before")
    @classmethod
    def _with_defaults(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        defaults = dict.fromkeys(cls.model_fields["metrics"].default, {})
        return typed_by_key(defaults | value)


class Inference(Block):
    """What run_mode=inference embeds."""

    splits: list[str] = pydantic.Field(default=["inference"], min_length=1)
    """Splits that go through the checkpoint, one after another; no labels or reports are needed."""
    reports: bool = False
    """Also write the reports of the train split with their embeddings and labels (embeddings/DATA_reports.parquet), for nearest reports:
    keep the file where the reports may be."""


class Tracking(Block):
    """Where the numbers go besides metrics.jsonl, which is always written."""

    use_wandb: bool = False
    """Log to Weights & Biases; without an API key the run is logged offline into the run folder."""
    wandb_project: str = "deepcoro"
    """W&B project."""
    wandb_entity: str | None = None
    """W&B team or user; unset = the account's default."""
    use_tensorboard: bool = True
    """Write TensorBoard event files into run_dir/tensorboard."""
    use_trackio: bool = False
    """Log to trackio (`pip install deepcoro[trackio]`), into TRACKIO_DIR or the Hugging Face cache of this machine; a space that
    TRACKIO_SPACE_ID names is made private. Show it with `trackio show --project deepcoro`."""
    log_films: bool = False
    """Send frames of a few films with their reports, or with what heads got wrong, to W&B and TensorBoard at each evaluation in
    training. Off: patients' frames and reports never leave the run folder."""
    log_every_steps: int = pydantic.Field(default=10, ge=1)
    """Optimiser steps between log lines; between them nothing waits for the device."""


class RunConfig(Block):
    """One run: what it reads, what it trains, what it writes."""

    run_mode: Literal["train", "val", "test", "inference"] = "train"
    """train; val or test evaluate a checkpoint on that split; inference embeds the splits of `inference.splits`, without labels."""
    run_dir: Path = Path("runs/run")
    """Folder of everything this run writes."""
    seed: int = 0
    """Seed of initialisation, sample order, frame choice and dropout."""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue if run_dir holds a valid checkpoint; never: refuse to start in a run_dir that holds one."""
    max_steps: int | None = pydantic.Field(default=None, ge=1)
    """Optimiser steps of the run; unset = epochs."""
    epochs: float = pydantic.Field(default=10.0, gt=0)
    """Passes over the training samples, where max_steps is unset."""
    batch_size: int = pydantic.Field(default=16, ge=1)
    """Samples per GPU and micro-step: clips when data.multi_video is false, studies when true."""
    gradient_accumulation_steps: int = pydantic.Field(default=1, ge=1)
    """Micro-steps summed into one optimiser step."""
    gradient_cache: bool = True
    """With accumulation, objectives that compare rows (contrastive) compare all of the optimiser step's, as in one batch of that size,
    at the cost of one more forward pass of the towers. false: each micro-step has its own negatives only."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16: fp32 parameters under bf16 autocast; losses and norms stay fp32. fp32: everything."""
    clips_per_chunk: int | None = pydantic.Field(default=None, ge=1)
    """Clips the video tower encodes at a time; the first memory switch. Unset = all of the micro-step."""
    data: Data = Data()
    """Where the samples come from."""
    augment: Augment = Augment()
    """Random changes of training films on the device."""
    normalisation: Normalisation = Normalisation()
    """Mean and deviation of the grey levels."""
    towers: Towers = Towers()
    """The encoders."""
    pooler: Pooler = mean.Config()
    """Clips of a study -> one embedding."""
    objectives: dict[str, Objective] = {"contrastive": contrastive.Config()}
    """What is optimised; the key is the log prefix and default `type`."""
    loss_weights: dict[str, float] = {}
    """Weight of each objective's loss; those not named weigh 1."""
    schedules: dict[str, Schedule] = {}
    """When each objective takes part, and how its loss and learning rate begin; those not named take part in every step."""
    freeze: list[FreezePhase] = []
    """Phases of the run in which other fractions of the towers are frozen, in order; after the last one the towers' own
    video_freeze_ratio and text_freeze_ratio hold."""
    optim: Optim = Optim()
    """Optimiser and schedule."""
    ema: Ema = Ema()
    """Averages of the weights, which evaluation then reads."""
    non_finite: NonFinite = NonFinite()
    """What comes of steps whose loss or gradient is not finite."""
    stall_timeout_s: float | None = pydantic.Field(default=600.0, gt=0)
    """Longest wait within a training step (for data, for the other ranks, for the disk) before every rank writes the stacks of its threads
    to run_dir/stalls/; after twice that it leaves with exit code 76. Evaluation has no limit. null = never."""
    checkpoint: Checkpoint = Checkpoint()
    """When weights are written and which are read."""
    evaluate: Evaluate = Evaluate()
    """Evaluation during training and by itself."""
    inference: Inference = Inference()
    """What run_mode=inference embeds."""
    tracking: Tracking = Tracking()
    """Where the numbers go."""
    profile: Profile = Profile()
    """Steps that torch.profiler watches."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _objectives_have_what_they_read(cls, value: Any) -> Any:
        """Fields that objectives and pooler read need not be named; what only texts need is gone where nobody reads texts."""
        if not isinstance(value, dict):
            return value
        defaults = {key: cls.model_fields[key].default for key in ("objectives", "pooler")}
        return with_needs(value, (dict[str, Objective], defaults["objectives"]), (Pooler, defaults["pooler"]))

    @pydantic.field_validator("objectives", mode="before")
    @classmethod
    def _default_types(cls, value: Any) -> Any:
        return typed_by_key(value)

    @pydantic.model_validator(mode="after")
    def _names_are_of_objectives(self) -> "RunConfig":
        for key, named in (("loss_weights", self.loss_weights), ("schedules", self.schedules)):
            unknown = sorted(set(named) - set(self.objectives))
            if unknown:
                raise ValueError(f"{key} names {unknown}; objectives of this run: {sorted(self.objectives)}")
        if not self.objectives:
            raise ValueError("objectives is empty; name at least one, such as contrastive")
        taken = sorted({"default", "text"} & set(self.objectives))
        if taken:
            raise ValueError(
                f"objectives are called {taken}, as lr/default and lr/text of the log; choose other names"
            )
        masked = sorted(name for name, each in self.objectives.items() if each.type == "masked_modeling")
        if len(masked) > 1:
            raise ValueError(
                f"objectives {masked} are all of type masked_modeling, and a film is masked once a step; keep one of them"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _cached_features_stay_true(self) -> "RunConfig":
        thawing = [phase.text for phase in self.freeze if phase.text not in (None, 1)]
        if self.towers.text is not None and self.towers.text.cache_features and thawing:
            raise ValueError(
                f"towers.text.cache_features is for a tower that stays frozen, and freeze has phases with text = {thawing}"
            )
        if self.caches_films:
            refuse_changing_films(self)
        return self

    @property
    def caches_films(self) -> bool:
        """Whether each film goes through the video tower once a run."""
        return getattr(self.towers.video, "cache_features", False)

    @pydantic.model_validator(mode="after")
    def _texts_have_a_tower(self) -> "RunConfig":
        reading = [name for name, each in self.objectives.items() if getattr(each, "reads_text", False)]
        if reading and self.towers.text is None:
            raise ValueError(
                f"towers.text is null, and objectives {reading} read texts; give it a tower, such as {{type: text_hf}}"
            )
        return self

    @property
    def own_lr(self) -> dict[str, float]:
        """Peak learning rate of each objective whose own parameters do not follow the rest of the model."""
        of_type = {
            "captioning": self.optim.captioning_lr,
            "masked_modeling": self.optim.mvm_lr,
            "linear_probing": self.optim.head_lr,
        }
        return {
            name: of_type.get(objective.type) or self.optim.lr
            for name, objective in self.objectives.items()
            if objective.type in of_type or name in self.schedules
        }

    @property
    def own_groups(self) -> dict[str, dict[str, float]]:
        """Path below the model's objectives -> `lr` and `weight_decay` of the parameters there, where they are not those around them."""
        groups: dict[str, dict[str, float]] = {}
        for name, objective in self.objectives.items():
            if objective.type == "linear_probing" and self.optim.head_weight_decay is not None:
                groups[name] = {"weight_decay": self.optim.head_weight_decay}
            own = getattr(objective, "own_groups", dict)()
            groups |= {f"{name}.{path}": settings for path, settings in own.items()}
        return groups

    @property
    def evaluation_batch_size(self) -> int:
        return self.evaluate.batch_size or self.batch_size

    @property
    def checkpoint_folder(self) -> Path:
        return self.run_dir / "checkpoints"


def load_run_config(path: Path, overrides: list[str]) -> RunConfig:
    """The run config of a YAML file with overrides laid over it; a ConfigError names what is wrong, or what contradicts itself."""
    config = _read(path, overrides)
    refuse_contradictions(config)
    return config


def _read(path: Path, overrides: list[str]) -> RunConfig:
    tree = read_tree(path, overrides, SHORTHANDS)
    if "pipeline_project" in tree:
        raise ConfigError(
            f"{path} is a config of DeepCORO_CLIP (pipeline_project); `python tools/import_config.py {path} --output NEW.yaml` makes ours",
            topic="predecessor-config",
        )
    return parse(RunConfig, tree, str(path))


def config_of_run(run_dir: Path, overrides: list[str]) -> RunConfig:
    """The config of a run folder with overrides laid over it. ConfigError where it holds none."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} holds no config.yaml; name the folder of a run", topic="no-checkpoint")
    return _read(path, overrides)


def run_config_from_dump(tree: dict, source: str) -> RunConfig:
    """The config a run folder or checkpoint holds."""
    return parse(RunConfig, tree, source)


def keys_changed_since(saved: dict, config: RunConfig, source: str) -> list[str]:
    """Dotted keys in which a run differs from the config that a checkpoint holds. A key younger than the checkpoint counts as set to its
    default, which is what the checkpoint's program did.
    """
    return changed_keys(dump(run_config_from_dump(saved, source)), dump(config))
