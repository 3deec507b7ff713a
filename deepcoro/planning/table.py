"""What fits: every engine, way of keeping activations and micro-batch of a config on given GPUs, and the one to take."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from deepcoro.config import ConfigError
from deepcoro.planning.activations import Activations, Parameters, Subject
from deepcoro.planning.speed import StepTime, step_time
from deepcoro.planning.states import EngineName, Peak, Rank, peak_of
from deepcoro.planning.traffic import Machine
from deepcoro.run_config import RunConfig

GB = 1e9
RESERVED_GB = 1.0
"""Of a GPU's memory that no tensor can have: CUDA's context, NCCL's buffers, workspaces of libraries. Assumed."""
WASTE = 0.05
"""What the allocator needs beyond the tensors alive. Assumed."""
WAYS = ("none", "selective", "blocks", "blocks + bf16 stream")
SAMPLED_ROWS = 2


@dataclass(frozen=True)
class Choice:
    """One way to run a config."""

    engine: EngineName
    way: str
    """Of WAYS: what backward makes again, and the format of tokens between blocks."""
    micro_batch: int
    """Samples a GPU takes at a time."""
    micro_steps: int
    """Micro-steps of one optimiser step."""
    peak: Peak
    time: StepTime

    @property
    def allocated_gb(self) -> float:
        """Of tensors alive at once, what `torch.cuda.max_memory_allocated` tells of a run."""
        return self.peak.bytes / GB

    @property
    def need_gb(self) -> float:
        """Of a GPU: tensors, waste and what is reserved."""
        return self.allocated_gb * (1 + WASTE) + RESERVED_GB

    def samples_per_s(self, gpus: int) -> float:
        return self.micro_batch * self.micro_steps * gpus / self.time.seconds


@dataclass
class Plan:
    """All choices of a config, measured as they are asked for."""

    config: RunConfig
    machine: Machine
    gpu_memory_gb: float
    device: str = "cuda"
    text_tokens: int | None = None
    ways: Sequence[str] = WAYS
    measured_of: dict[str, tuple[Parameters, dict[int, Activations]]] = field(default_factory=dict)
    """What was measured of each way; plans of one config may share it."""

    def choices(self) -> list[Choice]:
        """Every engine that makes sense on so many GPUs, every way, every micro-batch that divides the config's batch_size by
        a power of two."""
        return [
            self.choice(engine, way, micro_batch)
            for engine in engines_for(self.machine)
            for way in self._ways()
            for micro_batch in micro_batches(self.config.batch_size)
        ]

    def choice(self, engine: EngineName, way: str, micro_batch: int) -> Choice:
        sizes, work = self.work(way, micro_batch)
        micro_steps = self.config.gradient_accumulation_steps * (self.config.batch_size // micro_batch)
        peak = peak_of(engine, Rank(self.machine.gpus, self.device), sizes, work)
        time = step_time(engine, self.machine, sizes, work, micro_steps, self.repeats_towers)
        return Choice(engine, way, micro_batch, micro_steps, peak, time)

    def best(self) -> Choice:
        """The fastest that fits, and of equally fast ones the plainest. ConfigError, naming what to change, where none does."""
        choices = self.choices()
        fitting = [each for each in choices if self.fits(each)]
        if not fitting:
            raise ConfigError(
                self._remedy(min(choices, key=lambda each: each.need_gb)), topic="out-of-memory"
            )
        fastest = max(each.samples_per_s(self.machine.gpus) for each in fitting)
        return next(each for each in fitting if each.samples_per_s(self.machine.gpus) > 0.98 * fastest)

    def unconstrained(self) -> Choice:
        """The fastest if memory were no matter."""
        return max(self.choices(), key=lambda each: each.samples_per_s(self.machine.gpus))

    def fits(self, choice: Choice) -> bool:
        return choice.need_gb <= self.gpu_memory_gb

    def work(self, way: str, rows: int) -> tuple[Parameters, Activations]:
        """Sizes of the model and bytes of a micro-step of `rows` samples: measured at two sizes, on their line elsewhere."""
        if way not in self.measured_of:
            subject = Subject(in_way(self.config, way), self.device, self.text_tokens)
            self.measured_of[way] = (
                subject.parameters,
                {each: subject.measure(each) for each in self.measured_rows},
            )
        sizes, measured = self.measured_of[way]
        if rows in measured:
            return sizes, measured[rows]
        small, large = self.measured_rows
        return sizes, measured[small].at(rows, measured[large], small, large)

    @property
    def measured_rows(self) -> tuple[int, int]:
        """Two sizes of micro-batch: few samples, and the config's own. The smaller one fills a chunk of clips, the larger one whole chunks,
        so that one more is another of the same.
        """
        chunk = self.config.clips_per_chunk or 1
        small = max(SAMPLED_ROWS, -(-chunk // self.config.data.clips_per_sample))
        return small, small * max(2, self.config.batch_size // small)

    @property
    def repeats_towers(self) -> bool:
        """Whether accumulation runs the towers once more, for negatives of all micro-steps."""
        compares = any(each.type == "contrastive" for each in self.config.objectives.values())
        return self.config.gradient_cache and compares

    def _ways(self) -> Iterator[str]:
        has_stream = self.config.precision == "bf16" and hasattr(self.config.towers.video, "residual")
        return (each for each in self.ways if has_stream or "stream" not in each)

    def _remedy(self, least: Choice) -> str:
        video = self.config.data.fields["video"]
        return (
            f"nothing fits in {self.gpu_memory_gb:g} GB a GPU: the least is {least.need_gb:.1f} GB with {least.engine}, "
            f"activation_checkpointing {least.way}, micro-batch {least.micro_batch}. "
            f"{_heaviest(least)}: take larger GPUs or more of them, "
            f"fewer or smaller frames (data.fields.video.frames={video.frames}, size_px={video.size_px}), "
            f"fewer films of a study (data.num_videos={self.config.data.num_videos}), clips_per_chunk, "
            "towers.video.patch_dropout, or a smaller tower (towers.video.variant, towers.text)"
        )


def _heaviest(choice: Choice) -> str:
    states, rest = choice.peak.idle / GB, (choice.peak.bytes - choice.peak.idle) / GB
    return f"Weights and states take {states:.1f} GB of it, activations and buffers {rest:.1f} GB"


def in_way(config: RunConfig, way: str) -> RunConfig:
    """The config with a tower that keeps activations in this way."""
    checkpointing, _, stream = way.partition(" + ")
    video = config.towers.video
    switches = (
        {"activation_checkpointing": checkpointing} if hasattr(video, "activation_checkpointing") else {}
    )
    if hasattr(video, "residual"):
        switches["residual"] = "bf16" if stream else video.residual
    towers = config.towers.model_copy(update={"video": video.model_copy(update=switches)})
    return config.model_copy(update={"towers": towers})


def engines_for(machine: Machine) -> tuple[EngineName, ...]:
    """The plainest first. One GPU divides nothing; several nodes have launch files of three."""
    if machine.gpus == 1:
        return ("ddp", "zero2_offload", "zero3_offload")
    if machine.nodes > 1:
        return ("ddp", "zero2", "zero3")
    return ("ddp", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")


def micro_batches(batch_size: int) -> list[int]:
    """batch_size and what of it is left when it is halved as often as it can be, largest first."""
    found = [batch_size]
    while found[-1] % 2 == 0:
        found.append(found[-1] // 2)
    return found


def overrides(choice: Choice, config: RunConfig) -> list[str]:
    """What of a config a choice changes, as words of the command line."""
    checkpointing, _, stream = choice.way.partition(" + ")
    video, words = config.towers.video, []
    if getattr(video, "activation_checkpointing", checkpointing) != checkpointing:
        words.append(f"towers.video.activation_checkpointing={checkpointing}")
    if stream:
        words.append("towers.video.residual=bf16")
    if choice.micro_batch != config.batch_size:
        words += [f"batch_size={choice.micro_batch}", f"gradient_accumulation_steps={choice.micro_steps}"]
    return words


def launch_file(engine: EngineName, machine: Machine) -> str:
    """Which of accelerate_configs/ starts it."""
    if engine == "ddp" and machine.gpus == 1:
        return "single_gpu"
    kind = "multi_node" if machine.nodes > 1 else "multi_gpu"
    return f"{kind}_{engine}"


def command(choice: Choice, plan: Plan, name: str, words: Sequence[str]) -> str:
    """The one command to run."""
    machine = plan.machine
    launch = [
        "accelerate launch",
        f"--config_file accelerate_configs/{launch_file(choice.engine, machine)}.yaml",
    ]
    if machine.gpus > 1 or choice.engine != "ddp":
        launch.append(f"--num_processes {machine.gpus}")
    if machine.nodes > 1:
        launch += [
            f"--num_machines {machine.nodes}",
            "--machine_rank N --main_process_ip HOST --main_process_port 29500",
        ]
    return " ".join([*launch, "train.py", name, *words, *overrides(choice, plan.config)])


def faster(machine: Machine, choice: Choice, samples_per_s: float) -> Machine:
    """The machine on which `choice` gives so many samples a second and GPU, from a run's own log."""
    wanted = choice.micro_batch * choice.micro_steps / samples_per_s
    ratio = choice.time.compute / wanted
    return replace(machine, tflops=machine.tflops * ratio, launch_us=machine.launch_us / ratio)
