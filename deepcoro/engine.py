"""The one engine of a run: accelerate and DeepSpeed set up so that they agree with the run config, and nothing is left to "auto"."""

import contextlib
import gc
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepcoro import averages, distributed
from deepcoro.config import ConfigError
from deepcoro.finite import GuardedSteps, step_if_finite
from deepcoro.kernels.precision import cpu_has_bfloat16
from deepcoro.run_config import RunConfig
from deepcoro.shared_folder import require_shared
from deepcoro.teachers import move_teachers

logger = logging.getLogger(__name__)

MOMENTS = ("exp_avg", "exp_avg_sq")


def start_accelerator(config: RunConfig) -> Any:
    """The process group and the accelerator of this rank.

    Raises ConfigError when the launcher and torch disagree about the number of processes: every rank would believe to be alone;
    and when machines do not share run_dir.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    uses_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    has_gpu = torch.cuda.is_available()
    if uses_deepspeed:
        _leave_out_inference_op()
    # Without a backend named, accelerate takes DeepSpeed's CPU ranks for single processes.
    backend = "gloo" if "LOCAL_RANK" in os.environ and not has_gpu else None
    accelerator = Accelerator(
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        kwargs_handlers=[InitProcessGroupKwargs(backend=backend, timeout=distributed.TIMEOUT)],
        # Under DeepSpeed `cpu=True` would silently mean plain DDP.
        cpu=not uses_deepspeed and not has_gpu,
    )
    if accelerator.num_processes != distributed.world_size():
        raise ConfigError(
            f"accelerate sees {accelerator.num_processes} processes, torch.distributed {distributed.world_size()}; "
            "launch with one of accelerate_configs/*.yaml",
            topic="launching",
        )
    distributed.open_host_group()
    if uses_deepspeed and accelerator.state.deepspeed_plugin is None:
        raise ConfigError(
            f"DeepSpeed was asked for and accelerate chose {accelerator.state.distributed_type.value}: unset ACCELERATE_USE_CPU",
            topic="launching",
        )
    if config.precision == "bf16" and not has_gpu and not cpu_has_bfloat16():
        logger.warning("this CPU has no bf16 arithmetic: precision=fp32 is many times faster here")
    if uses_deepspeed:
        _fill_deepspeed_config(accelerator.state.deepspeed_plugin.deepspeed_config, config)
    require_shared(config.run_dir)
    return accelerator


def _leave_out_inference_op() -> None:
    """DeepSpeed compiles a shared-memory all-reduce on its first CPU collective (minutes); only its inference engine calls it."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _fill_deepspeed_config(deepspeed_config: dict, config: RunConfig) -> None:
    """Micro-batch, accumulation and clipping are the run config's; a number in the file would be a second owner."""
    filled = {
        "train_micro_batch_size_per_gpu": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm,
    }
    for key, value in filled.items():
        given = deepspeed_config.get(key, "auto")
        if given not in ("auto", value):
            raise ConfigError(
                f'the DeepSpeed config says {key}={given}, the run config {value}; write "auto" in the DeepSpeed config',
                topic="launching",
            )
        deepspeed_config[key] = value
    _refuse_its_own_accumulation(deepspeed_config)
    _refuse_unchecked_gradients(deepspeed_config)


def _refuse_unchecked_gradients(deepspeed_config: dict) -> None:
    """DeepSpeed then writes a NaN of one rank into the weights of all."""
    for block, key in (("zero_optimization", "compute_grad_norm"), ("bf16", "check_grad_overflow")):
        if deepspeed_config.get(block, {}).get(key, True) is False:
            raise ConfigError(
                f"the DeepSpeed config has {block}.{key}=false: steps that are not finite would not be skipped; leave it out"
            )


def _refuse_its_own_accumulation(deepspeed_config: dict) -> None:
    """DeepSpeed then takes another optimiser (BF16_Optimizer), whose moments and gradients this engine cannot reach."""
    stage = deepspeed_config.get("zero_optimization", {}).get("stage", 0)
    in_bf16 = deepspeed_config.get("bf16", {}).get("enabled", False) is not False
    accumulates_in = deepspeed_config.get("data_types", {}).get("grad_accum_dtype")
    if stage == 1 and in_bf16 and accumulates_in in ("fp32", "float32", "float"):
        raise ConfigError(
            "the DeepSpeed config has ZeRO stage 1, bf16 and data_types.grad_accum_dtype=fp32; "
            "use stage 2 or 3, or leave bf16 out: parameters are then fp32 under precision=bf16's autocast"
        )


class Engine:
    """A prepared model and optimiser with the same few verbs under DDP and every ZeRO stage."""

    def __init__(
        self, accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig
    ):
        self.accelerator = accelerator
        self.config = config
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.model = accelerator.unwrap_model(self.wrapped)
        self.uses_deepspeed = accelerator.state.deepspeed_plugin is not None
        self._assert_agreement()
        self.zero_stage = self.wrapped.zero_optimization_stage() if self.uses_deepspeed else 0
        _refuse_compiled_pieces(config, self.zero_stage)
        self._adamw = _innermost_optimizer(self.optimizer)
        self._guard = GuardedSteps(self._adamw) if self.uses_deepspeed and not self.zero_stage else None
        self.took_step = torch.ones((), dtype=torch.bool, device=self.device)
        """Whether the last optimiser step counted, the same on every rank: not where loss or gradient were not finite."""
        self._kept = (*MOMENTS, averages.KEY) if self.keeps_averages else MOMENTS
        self._create_moments()

    def release(self) -> None:
        """Lets go of model and optimiser: their memory is free before another engine is built. This one is of no use any more."""
        if self.zero_stage == 3:  # DeepSpeed 0.19.8 never takes the root module off this stack
            from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

            FWD_MODULE_STACK[:] = [module for module in FWD_MODULE_STACK if module is not self.model]
            # something in DeepSpeed still holds its optimiser: the weights are freed by hand
            for flat, _ in self._optimized():
                flat.data = flat.new_empty(0)
        self._adamw.state.clear()
        self.wrapped = self.model = self.optimizer = self._adamw = None
        self.accelerator.free_memory()
        gc.collect()  # accelerate collects before it lets go of its own lists
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def keeps_averages(self) -> bool:
        """Whether averages of what trains are kept, which `plain_model` then has in place of the weights."""
        return self.config.ema.decay is not None

    def set_lr(self, lr_of_group: dict[str, float]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr_of_group[group["name"]]

    def micro_step(self) -> contextlib.AbstractContextManager:
        """Around forward and backward of one micro-step: gradients are exchanged on the last of a window only."""
        return self.accelerator.accumulate(self.wrapped)

    def backward(self, loss: Tensor) -> Tensor | None:
        """Backward of one micro-step; the last of a window also clips and steps, and returns the norm before clipping.

        Both backends divide the loss by the accumulation count and average gradients over ranks; the caller's loss allows
        for both. DeepSpeed tells no norm under ZeRO-0. A step whose norm is not finite changes nothing; `took_step` then says so.
        """
        self.accelerator.backward(loss)
        if not self.accelerator.sync_gradients:
            return None
        if self.uses_deepspeed:  # it has clipped and stepped inside backward
            norm = self.wrapped.get_global_grad_norm()
            norm = None if norm is None else torch.as_tensor(norm, device=self.device)
            self.took_step = (norm if self._guard is None else self._guard.norm).isfinite()
            return norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.optim.max_grad_norm)
        self.took_step = norm.isfinite()
        step_if_finite(self._adamw, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def move_teachers(self, active: Collection[str] | None = None) -> None:
        """After an optimiser step: teachers take their share of what the video tower has become, if it counted. Collective."""
        move_teachers(self.model, self.zero_stage, active, self.took_step)

    def move_averages(self, steps: int) -> None:
        """After the `steps`-th optimiser step of the run, on the piece of the weights that this rank steps itself. A step that did not count
        moves them too: towards the weights as they stayed.
        """
        if not self.keeps_averages:
            return
        weights = [tensor for tensor, _ in self._optimized()]
        kept = [self._adamw.state[tensor][averages.KEY] for tensor in weights]
        averages.move(kept, weights, averages.decay_after(steps, self.config.ema.decay))

    def full_weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer, whole, fp32, on the host of rank 0; empty on the others. Collective."""
        weights = {}
        for name, parameter in self.model.named_parameters():
            with self._gathered(parameter):
                if distributed.rank() == 0:
                    weights[name] = parameter.detach().to("cpu", torch.float32, copy=True)
        if distributed.rank() == 0:
            weights |= {name: buffer.detach().cpu().clone() for name, buffer in self._saved_buffers()}
        return weights

    def full_moments(self) -> dict[str, Tensor]:
        """AdamW's moments of every trainable parameter, named `NAME/exp_avg`, and averages where they are kept; on rank 0, empty on the
        others. Collective.
        """
        moments = {}
        for name, parameter in self._trainable():
            for key in self._kept:
                value = self._moment(parameter, key)
                if distributed.rank() == 0:
                    moments[f"{name}/{key}"] = value.detach().to("cpu", torch.float32, copy=True)
        return moments

    def set_moments(
        self,
        moments: dict[str, Tensor],
        step: int,
        since: Mapping[str, int],
        skipped: Collection[int] = (),
    ) -> None:
        """Continue from saved moments, of whatever ZeRO stage and number of ranks they came. Every rank holds them whole.

        `since` which step each parameter trains: one that begins at `step` has no moments yet, and AdamW's bias correction counts
        from there, without the steps `skipped` (numbered from 1), which did not count. ConfigError when the moments of one that has trained are missing.
        """
        for name, parameter in self._trainable():
            if since[name] == step:
                continue
            if f"{name}/{MOMENTS[0]}" not in moments:
                raise ConfigError(
                    f"the checkpoint holds no moments of {name}, which did not train when it was written; "
                    "give the run back the config it was trained with",
                    topic="resume",
                )
            for key in self._kept:
                self._set_moment(parameter, key, moments[f"{name}/{key}"].to(self.device))
        for tensor, group in self._optimized():
            since_then = sum(number > group["since"] for number in skipped)
            self._adamw.state[tensor]["step"].fill_(step - group["since"] - since_then)

    def plain_model(self, build: Callable[[], nn.Module]) -> nn.Module:
        """The model without an engine around it, whole on every rank, for evaluation. Collective.

        Under ZeRO-3 the parameters are in pieces, so a second model is built and filled, and so it is to hold averages; else the trained one
        is lent.
        """
        if self.zero_stage < 3 and not self.keeps_averages:
            return self.model
        model = build().to(self.device)
        targets = dict(model.named_parameters())
        for name, parameter in self.model.named_parameters():
            with self._gathered(parameter), torch.no_grad():
                targets[name].copy_(parameter)
        if self.keeps_averages:
            for name, parameter in self._trainable():
                with torch.no_grad():
                    targets[name].copy_(self._moment(parameter, averages.KEY))
        model.load_state_dict(dict(self._saved_buffers()), strict=False)
        return model

    def _assert_agreement(self) -> None:
        if not self.uses_deepspeed:
            return
        if type(self.wrapped).__name__ != "DeepSpeedEngine":
            raise ConfigError(f"DeepSpeed was asked for, accelerate prepared a {type(self.wrapped).__name__}")
        agreed = {
            "gradient_accumulation_steps": self.config.gradient_accumulation_steps,
            "train_micro_batch_size_per_gpu": self.config.batch_size,
            "gradient_clipping": self.config.optim.max_grad_norm,
        }
        for key, ours in agreed.items():
            theirs = getattr(self.wrapped, key)()
            if theirs != ours:
                raise ConfigError(
                    f"DeepSpeed runs with {key}={theirs}, the run config says {ours}", topic="launching"
                )

    def _create_moments(self) -> None:
        """AdamW makes its moments on the first step; made here, a checkpoint can be read into them before it."""
        for tensor, _ in self._optimized():
            zeros = {key: torch.zeros_like(tensor, memory_format=torch.preserve_format) for key in MOMENTS}
            # a fused step counts where the parameter lies
            count = torch.zeros((), dtype=torch.float32, device=tensor.device)
            self._adamw.state[tensor] = {"step": count} | zeros
            if self.keeps_averages:
                self._adamw.state[tensor][averages.KEY] = tensor.detach().clone()
        if self.zero_stage in (1, 2):
            self._link_moments()

    def _link_moments(self) -> None:
        """Tells ZeRO-1 and -2's parameters where in the flat partitions their moments lie."""
        zero = self.optimizer.optimizer
        for flat, group in zip(zero.single_partition_of_fp32_groups, zero.bit16_groups, strict=True):
            owned = (
                each._hp_mapping for each in group if each._hp_mapping is not None
            )  # None: another rank's
            for mapping in owned:
                mapping.set_optim_state_fragment(flat, self._adamw.state[flat])

    def _optimized(self) -> Iterator[tuple[Tensor, dict]]:
        """What AdamW really steps, each with its group: the parameters, or this rank's flat fp32 partitions of them."""
        groups = self._adamw.param_groups
        if self.zero_stage == 3:
            zero = self.optimizer.optimizer
            for number, flat in enumerate(zero.fp32_partitioned_groups_flat):
                yield flat, groups[zero.sub_group_to_group_id[number]]
        elif self.zero_stage:
            yield from zip(self.optimizer.optimizer.single_partition_of_fp32_groups, groups, strict=True)
        else:
            yield from ((parameter, group) for group in groups for parameter in group["params"])

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, each) for name, each in self.model.named_parameters() if each.requires_grad)

    def _saved_buffers(self) -> Iterator[tuple[str, Tensor]]:
        kept = self.model.state_dict()
        return ((name, buffer) for name, buffer in self.model.named_buffers() if name in kept)

    def _gathered(self, parameter: nn.Parameter) -> contextlib.AbstractContextManager:
        if self.zero_stage < 3:
            return contextlib.nullcontext()
        import deepspeed

        return deepspeed.zero.GatheredParameters([parameter])

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if not self.zero_stage:
            return self._adamw.state[parameter][key]
        from deepspeed.utils import safe_get_full_optimizer_state

        return safe_get_full_optimizer_state(parameter, key)

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if not self.zero_stage:
            self._adamw.state[parameter][key].copy_(value)
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if self.zero_stage < 3:
            safe_set_full_optimizer_state(parameter, value, key)
            return
        # DeepSpeed 0.19.8 cannot cut a tensor whose size the number of ranks does not divide; so it is cut here.
        size, rank = parameter.partition_numel(), distributed.rank()
        padded = torch.nn.functional.pad(
            value.flatten(), (0, size * distributed.world_size() - value.numel())
        )
        safe_set_local_optimizer_state(parameter, padded[rank * size : (rank + 1) * size], key)


def _refuse_compiled_pieces(config: RunConfig, zero_stage: int) -> None:
    if zero_stage == 3 and getattr(config.towers.video, "compile", False):
        raise ConfigError(
            "towers.video.compile=true is not for ZeRO-3, which gathers parameters between the modules of a block; "
            "set it to false, or use ZeRO-2"
        )


def _innermost_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """accelerate and DeepSpeed each wrap the optimiser they are given."""
    while not isinstance(optimizer, torch.optim.AdamW):
        optimizer = optimizer.optimizer
    return optimizer
