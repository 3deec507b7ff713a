"""A trained classifier and all that must be known to use it: classes, temperatures, thresholds, what it was trained on."""

import json
from pathlib import Path

import pydantic
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from deepcoro import atomic
from deepcoro.config import Block, ConfigError
from deepcoro.content.network import ContentNetwork
from deepcoro.content.pictures import Films

_KEY = "deepcoro_content"


class HeadCard(Block):
    """One question and how far its answers can be trusted."""

    classes: list[str]
    """Answers, sorted."""
    temperature: float = pydantic.Field(1.0, gt=0)
    """Divides the logits: fitted on val, so that a confidence of 0.9 is right nine times in ten."""
    min_confidence: float = pydantic.Field(ge=0, le=1)
    """Below it a film counts as not assessed: the lowest confidence above which val answers are as often right as asked."""
    num_val: int = 0
    """Films of val that temperature and threshold rest on."""


class Card(Block):
    """What a model file says of itself."""

    schema_version: int = 1
    """Version of this card."""
    size_px: int
    """Height and width of the pictures."""
    heads: dict[str, HeadCard]
    """Questions by column."""
    trained_on: dict[str, str | int | float | list[str]]
    """Fingerprints of the shard folders, counts, seed, epochs, versions: nothing that names a patient or a path."""
    measured: dict[str, float]
    """Numbers on val at the end of training."""


class ContentModel:
    """Network and card together."""

    def __init__(self, network: ContentNetwork, card: Card) -> None:
        self.network = network
        self.card = card

    @torch.inference_mode()
    def probabilities(self, films: Films, batch: int = 64) -> dict[str, Float[Tensor, "film _"]]:
        """Calibrated probabilities of every class of every head."""
        self.network.eval()
        device = next(self.network.parameters()).device
        parts = [self.network(chunk.to(device)) for chunk in films.pictures.split(batch)]
        return {
            head: torch.softmax(torch.cat([part[head] for part in parts]).cpu() / card.temperature, dim=1)
            for head, card in self.card.heads.items()
        }

    def save(self, path: Path) -> None:
        """One safetensors file with the card in its header, and the same card beside it as JSON to read."""
        weights = {
            name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()
        }
        text = self.card.model_dump_json(indent=1)
        atomic.write_bytes(path, save(weights, metadata={_KEY: text}))
        atomic.write_text(path.with_suffix(".json"), text + "\n")

    @staticmethod
    def load(path: Path) -> "ContentModel":
        """ConfigError when the file is absent or no such model."""
        try:
            with safe_open(path, framework="pt") as file:
                card = Card.model_validate(json.loads((file.metadata() or {})[_KEY]))
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            network = ContentNetwork({head: each.classes for head, each in card.heads.items()})
            network.load_state_dict(weights)
        except FileNotFoundError as error:
            raise ConfigError(
                f"--model {path.name} is not there; make it with label_content.py train"
            ) from error
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--model {path.name} is no model of label_content.py train; give the .safetensors that it wrote"
            ) from error
        return ContentModel(network, card)
