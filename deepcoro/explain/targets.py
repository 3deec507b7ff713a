"""What is explained: one number a sample, of which a gradient can be taken."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.config import ConfigError
from deepcoro.embed import embed_texts
from deepcoro.evaluated import class_embedding
from deepcoro.metrics.zero_shot import Config as ZeroShot
from deepcoro.run_config import RunConfig


@dataclass(frozen=True)
class Target:
    """A score of each row of a batch."""

    name: str
    """Names files and headings."""
    of: Callable[[dict[str, Tensor]], Float[Tensor, " row"]]
    """From what the model says of the rows (`task="evaluate"`)."""
    objectives: tuple[str, ...] = ()
    """Objectives that have to speak for it."""

    def score(self, model: nn.Module, batch: dict[str, Any]) -> Float[Tensor, " row"]:
        """In fp32, with a graph where gradients are on."""
        return self.of(model(batch, task="evaluate", active=self.objectives)).float()


def add_target_arguments(parser: argparse.ArgumentParser) -> None:
    """How a command line names one."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", help="a zero-shot task of the run")
    what.add_argument("--text", help="a sentence: what speaks for it")
    what.add_argument("--head", help="a head of the run")
    which = "which class of a head of several: its word in labels_map, or its number from 0 (0)"
    parser.add_argument("--output", metavar="CLASS", help=which)


def chosen_target(options: argparse.Namespace, model: nn.Module, config: RunConfig, tokenizer: Any) -> Target:
    """The one that a command line names. ConfigError for one that is not there, and for `--output` without `--head`."""
    if options.head:
        return head_target(model, config, options.head, options.output)
    if options.output is not None:
        raise ConfigError("--output names a class of a head; name the head with --head, or leave it out")
    if options.text:
        return text_target(model, config, tokenizer, options.text)
    return task_target(model, config, tokenizer, options.task)


def task_target(model: nn.Module, config: RunConfig, tokenizer: Any, task: str) -> Target:
    """A zero-shot task: cosine with the sentences of its positive class less that with the nearest other class."""
    metric = config.evaluate.metrics.get("zero_shot") or ZeroShot()
    if metric.type != "zero_shot" or task not in metric.tasks:
        known = sorted(metric.tasks) if metric.type == "zero_shot" else []
        raise ConfigError(f"zero-shot task '{task}' is not among {known} (evaluate.metrics.zero_shot.tasks)")
    built = metric.build()
    classes = {
        name: _direction(model, config, tokenizer, sentences)
        for name, sentences in built.prompts_of_task[task].items()
    }
    positive = classes.pop(metric.tasks[task].positive)
    others = torch.stack(list(classes.values()))

    def score(said: dict[str, Tensor]) -> Tensor:
        films = said["video"].float()
        return films @ positive - (films @ others.T).amax(dim=1)

    return Target(task, score)


def text_target(model: nn.Module, config: RunConfig, tokenizer: Any, text: str) -> Target:
    """Cosine with one sentence."""
    direction = _direction(model, config, tokenizer, [text])
    return Target(text, lambda said: said["video"].float() @ direction)


def head_target(model: nn.Module, config: RunConfig, head: str, output: str | None = None) -> Target:
    """One output of a head: the rows `OBJECTIVE/HEAD/prediction` that an objective's `evaluate` gives. `output`: of several classes the
    word or the number of one, None = the first. ConfigError for a head or a class that is not there.
    """
    owners = [
        name
        for name, objective in model.objectives.items()
        if head in (getattr(objective, "heads", None) or ())
    ]
    if not owners:
        raise ConfigError(
            f"no objective of this run has a head '{head}'; objectives: {sorted(model.objectives)}"
        )
    key, probe = f"{owners[0]}/{head}/prediction", config.objectives[owners[0]]
    is_single = probe.head_structure[head] == 1
    place = _place(head, [] if is_single else probe.class_words(head), output)
    name = f"{head}_{place}" if place else head
    return Target(name, lambda said: said[key][:, place], (owners[0],))


def _place(head: str, words: Sequence[str], output: str | None) -> int:
    """Which output of a head is meant; `words`: of its classes, none where it says one number."""
    numbers = {str(number): number for number in range(max(len(words), 1))}
    known = numbers | {word: number for number, word in enumerate(words)}
    if output is None:
        return 0
    if output not in known:
        listed = ", ".join(f"{number} ({word})" for number, word in enumerate(words))
        told = f"its classes: {listed}" if words else "it says one number: leave --output out"
        raise ConfigError(f"--output '{output}' is no class of the head '{head}'; {told}")
    return known[output]


@torch.no_grad()
def _direction(
    model: nn.Module, config: RunConfig, tokenizer: Any, sentences: Sequence[str]
) -> Float[Tensor, " dim"]:
    """Mean of the sentences' unit vectors, of unit length again."""
    embedded = embed_texts(model, config, tokenizer, list(sentences))
    if not embedded.shape[1]:
        raise ConfigError(
            "sentences need a contrastive objective, which this run has not; explain a head instead"
        )
    return torch.from_numpy(class_embedding(embedded)).to(next(model.parameters()).device)
