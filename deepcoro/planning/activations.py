"""Bytes of one step's activations, measured on the real graph of forward and backward with pretended tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from deepcoro.live_bytes import LiveBytes
from deepcoro.model import Batch, VideoTextModel
from deepcoro.optim import build_optimizer
from deepcoro.planning.example import make_batch, make_model, make_tokenizer, without_files
from deepcoro.planning.pretend import Kind, like, pretended
from deepcoro.run_config import RunConfig
from deepcoro.timetable import Phase, Timetable, enter_phase

STEPS = 1000
"""Of a run that counts in epochs: phases are told apart by fractions of it."""
KEPT_WHOLE = 10_000
"""`stage3_param_persistence_threshold` of ds_configs/zero3.json."""


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-step, parameters and optimiser states not counted."""

    batch: int
    """The batch itself, on the device."""
    kept: int
    """Alive between forward and backward."""
    beside_gradients: int
    """The most alive at once, where every gradient of a parameter leaves as soon as it is made (ZeRO-2 and 3)."""
    with_gradients: int
    """The most alive at once, gradients of parameters included."""
    flops: int = 0
    """Of the products, those made again included; a multiplication and an addition are two. Pooling is not among them."""
    launches: int = 0
    """Kernels that the host issues, about: operations that are no views, and kernels in Triton."""

    def at(self, rows: int, other: "Activations", own_rows: int, other_rows: int) -> "Activations":
        """Of `rows` samples, on the line through this measurement and a larger one. What comes on top of what is kept never falls: in
        a small batch it is another moment's peak.
        """

        def on_line(first: int, second: int) -> int:
            return round(first + (second - first) * (rows - own_rows) / (other_rows - own_rows))

        kept = on_line(self.kept, other.kept)
        peaks = {}
        for name in ("beside_gradients", "with_gradients"):
            extra = getattr(self, name) - self.kept, getattr(other, name) - other.kept
            peaks[name] = kept + max(on_line(*extra), extra[1] if rows > other_rows else 0)
        return Activations(
            on_line(self.batch, other.batch),
            kept,
            **peaks,
            flops=on_line(self.flops, other.flops),
            launches=on_line(self.launches, other.launches) if rows > own_rows else self.launches,
        )


@dataclass(frozen=True)
class Parameters:
    """Numbers (not bytes) of a phase of the run, in which as much as ever trains."""

    all: int
    trained: int
    groups: tuple[int, ...]
    """Of the optimiser, each of which is stepped at once."""
    largest_tensor: int
    buffer_bytes: int
    """What the model keeps beside parameters."""
    small: int
    """In tensors that ZeRO-3 keeps whole as shipped."""
    averaged: int = 0
    """Of which averages are kept (`ema.decay`)."""

    @property
    def checkpoint_bytes(self) -> int:
        """Weights, both moments and averages, fp32, on any number of GPUs."""
        return 4 * (self.all + 2 * self.trained + self.averaged)


class Subject:
    """A model of a config on a pretended device, in the phase of the run in which most trains; batches of any size go through it."""

    def __init__(self, config: RunConfig, device: str, text_tokens: int | None = None):
        self._config, self._device, self._text_tokens = without_files(config), device, text_tokens
        self._tokenizer = make_tokenizer(self._config)
        self._kind = Kind()
        with pretended(device, self._kind):
            self._model = make_model(self._config, self._tokenizer)
            self._timetable = Timetable(self._config, config.max_steps or STEPS)
            self.phase = _heaviest_phase(self._timetable, self._model)
            optimizer = build_optimizer(self._model, config.optim, config.own_lr, {}, config.own_groups)
        sizes = _parameters(self._model, optimizer)
        self.parameters = replace(sizes, averaged=sizes.trained if config.ema.decay is not None else 0)

    def enter(self, model: VideoTextModel) -> None:
        """Puts another model of the config into the same phase."""
        enter_phase(model, self._timetable, self.phase.start)

    def measure(self, rows: int) -> Activations:
        """One micro-step of `rows` samples."""
        batch = make_batch(self._config, self._tokenizer, rows, self._text_tokens)
        with pretended(self._device, self._kind) as counted:
            found = measured(self._model, like(batch), self.phase.active)
            return replace(found, flops=counted.flops, launches=counted.launches)


def _heaviest_phase(timetable: Timetable, model: VideoTextModel) -> Phase:
    """Of the run's phases that with most objectives, and of these the one that trains most; the model is put into it."""
    weights = {}
    for phase in timetable.phases:
        enter_phase(model, timetable, phase.start)
        trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
        weights[phase.start] = (len(phase.active), trained)
    start = max(weights, key=weights.__getitem__)
    enter_phase(model, timetable, start)
    return timetable.at(start)


def _parameters(model: VideoTextModel, optimizer: torch.optim.Optimizer) -> Parameters:
    sizes = {name: each.numel() for name, each in model.named_parameters()}
    trained = [each.numel() for each in model.parameters() if each.requires_grad]
    return Parameters(
        all=sum(sizes.values()),
        trained=sum(trained),
        groups=tuple(sum(each.numel() for each in group["params"]) for group in optimizer.param_groups),
        largest_tensor=max(trained),
        buffer_bytes=sum(each.nbytes for each in model.buffers()),
        small=sum(size for size in sizes.values() if size <= KEPT_WHOLE),
    )


def measured(model: VideoTextModel, batch: Batch, active: Sequence[str]) -> Activations:
    """One forward and backward pass of the objectives `active`."""
    trained = [each for each in model.parameters() if each.requires_grad]
    with LiveBytes() as live:
        hooks = [
            each.register_post_accumulate_grad_hook(lambda parameter: live.set_aside(parameter.grad))
            for each in trained
        ]
        results = model(batch, task="losses", active=active)
        loss = torch.stack([each["sum"].sum() for each in results.values()]).sum()
        kept = live.now
        loss.backward()
    for hook in hooks:
        hook.remove()
    for each in trained:
        each.grad = None
    return Activations(_bytes(batch), kept, live.peak_beside, live.peak)


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return value.nbytes if isinstance(value, Tensor) else 0
