"""Trains the classifier on the train split of shard folders, calibrates it on val, and says how good it is there."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pydantic
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional

from deepcoro import __version__
from deepcoro.config import Block, ConfigError, DataError
from deepcoro.content.measures import HeadMeasure, flat, lowest_confidence, measure_head
from deepcoro.content.model import Card, ContentModel, HeadCard
from deepcoro.content.network import ContentNetwork, jittered
from deepcoro.content.pictures import HEADS, Films

logger = logging.getLogger(__name__)

_WITHOUT_VAL = 0.9
"""Threshold of a head that val has no label for: nothing can be said of how often it is right."""


class Training(Block):
    """How it is trained."""

    size_px: int = pydantic.Field(96, ge=16)
    """Height and width of the pictures."""
    epochs: int = pydantic.Field(20, ge=1)
    """Passes over the training films."""
    batch_size: int = pydantic.Field(48, ge=2)
    """Films a step."""
    lr: float = pydantic.Field(3e-3, gt=0)
    """Peak of the one-cycle schedule."""
    wanted_accuracy: float = pydantic.Field(0.95, gt=0, le=1)
    """Share of written answers that is to be right: it sets each head's `min_confidence` on val."""
    seed: int = 0
    """Seed of weights, order and jitter."""


def train_content(
    parts: Sequence[Films],
    fingerprints: Sequence[str],
    settings: Training,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> tuple[ContentModel, dict[str, HeadMeasure]]:
    """The model and its measures on val, by head. `parts`: the films of each shard folder, all splits.

    ConfigError when no head has two classes among the training films; DataError when a patient is in train and in val.
    """
    train, val = _joined(parts, "train"), _joined(parts, "val")
    shared = set(train.patients) & set(val.patients)
    if shared:
        raise DataError(
            f"{len(shared)} patients are in train and in val; correct splits.csv, or the numbers would flatter",
            topic="patients-in-two-splits",
        )
    classes = _classes(train)
    torch.manual_seed(settings.seed)
    network = ContentNetwork(classes).to(
        "cuda" if torch.cuda.is_available() else "cpu", memory_format=torch.channels_last
    )
    _fit(network, train, classes, settings, on_epoch)
    heads = {head: HeadCard(classes=names, min_confidence=_WITHOUT_VAL) for head, names in classes.items()}
    card = Card(
        size_px=settings.size_px,
        heads=heads,
        trained_on=_provenance(train, fingerprints, settings),
        measured={},
    )
    return _calibrated(ContentModel(network, card), val, settings)


def _joined(parts: Sequence[Films], split: str) -> Films:
    chosen = [part.of_split(split) for part in parts]
    return Films(
        clips=[clip for part in chosen for clip in part.clips],
        patients=np.concatenate([part.patients for part in chosen]),
        splits=np.concatenate([part.splits for part in chosen]),
        pictures=torch.cat([part.pictures for part in chosen]),
        words={head: [word for part in chosen for word in part.words[head]] for head in HEADS},
    )


def _classes(train: Films) -> dict[str, list[str]]:
    """Classes that the training films show, of heads with two or more."""
    found = {
        head: sorted({word for word in words if word is not None}) for head, words in train.words.items()
    }
    for head, names in found.items():
        if len(names) < 2:
            logger.warning("%s is left out: the training films show %s", head, names or "no label")
    learnable = {head: names for head, names in found.items() if len(names) > 1}
    if not learnable:
        raise ConfigError(
            f"none of {list(HEADS)} has two classes among the {len(train.clips)} training films; shard a table with these columns"
        )
    return learnable


def _fit(
    network: ContentNetwork,
    train: Films,
    classes: dict[str, list[str]],
    settings: Training,
    on_epoch: Callable[[int, float], None],
) -> None:
    device = next(network.parameters()).device
    targets = {head: train.targets(head, names) for head, names in classes.items()}
    draw = torch.Generator().manual_seed(settings.seed)
    steps = max(1, len(train.clips) // settings.batch_size)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=settings.epochs * steps
    )
    network.train()
    for epoch in range(settings.epochs):
        order, losses = torch.randperm(len(train.clips), generator=draw), []
        for rows in order.tensor_split(steps):
            logits = network(jittered(train.pictures[rows], draw).to(device))
            loss = _loss(logits, {head: each[rows].to(device) for head, each in targets.items()})
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        on_epoch(epoch + 1, float(torch.stack(losses).mean()))


def _loss(logits: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """Mean over the films assessed, added over heads; a head that nobody assessed in this batch adds a connected zero."""
    total = torch.zeros((), device=next(iter(logits.values())).device)
    for head, values in logits.items():
        known = (targets[head] >= 0).sum().clamp(min=1)
        total = total + functional.cross_entropy(values, targets[head], reduction="sum") / known
    return total


def _calibrated(
    model: ContentModel, val: Films, settings: Training
) -> tuple[ContentModel, dict[str, HeadMeasure]]:
    """Temperature and threshold of every head from val, and the measures with them."""
    heads, measures = {}, {}
    raw = model.probabilities(val) if len(val.clips) else {}
    for head, card in model.card.heads.items():
        truth = val.targets(head, card.classes).numpy()
        if not (truth >= 0).any():
            logger.warning(
                "%s: no film of val is assessed; its threshold is %.2f, unchecked", head, _WITHOUT_VAL
            )
            heads[head] = card
            continue
        temperature = _temperature(raw[head].numpy(), truth)
        probabilities = _tempered(raw[head].numpy(), temperature)
        known = truth >= 0
        right = (probabilities.argmax(axis=1) == truth)[known]
        threshold = lowest_confidence(probabilities.max(axis=1)[known], right, settings.wanted_accuracy)
        heads[head] = card.model_copy(
            update={"temperature": temperature, "min_confidence": threshold, "num_val": int(known.sum())}
        )
        measures[head] = measure_head(probabilities, truth, threshold)
    measured = {name: value for head, each in measures.items() for name, value in flat(head, each).items()}
    card = model.card.model_copy(update={"heads": heads, "measured": measured})
    return ContentModel(model.network, card), measures


def _temperature(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The divisor of the logits that makes the true classes of val most likely (Guo et al. 2017, arXiv:1706.04599)."""
    known = truth >= 0

    def surprise(log_temperature: float) -> float:
        tempered = _tempered(probabilities[known], float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(tempered[np.arange(known.sum()), truth[known]], 1e-12)).mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(-1.5, 2.5), method="bounded").x))


def _tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    raised = np.power(np.maximum(probabilities, 1e-30).astype(np.float64), 1 / temperature)
    return raised / raised.sum(axis=1, keepdims=True)


def _provenance(
    train: Films, fingerprints: Sequence[str], settings: Training
) -> dict[str, str | int | float | list[str]]:
    return {
        "data_fingerprints": list(fingerprints),
        "films": len(train.clips),
        "patients": len(set(train.patients)),
        **{f"films_{head}": sum(word is not None for word in words) for head, words in train.words.items()},
        **settings.model_dump(),
        "deepcoro": __version__,
        "torch": torch.__version__,
    }
