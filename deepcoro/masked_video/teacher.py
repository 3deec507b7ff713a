"""A teacher that is the mean of what the student was: an encoder whose weights trail those of another (Tarvainen & Valpola 2017)."""

import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from deepcoro.features import encode_clips, gather_clips


class LaggingTeacher(nn.Module):
    """A copy of an encoder that no gradient reaches, in fp32 and in evaluation mode. It becomes the student when its objective begins
    (`teachers.start_teachers`), and the engine moves its weights after each optimiser step from then on (`Engine.move_teachers`).
    """

    def __init__(self, student: nn.Module, momentum: float, clips_per_chunk: int | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.clips_per_chunk = clips_per_chunk
        self.encoder = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    @torch.no_grad()
    def forward(
        self,
        video: Float[Tensor, "clip channel frame height width"],
        clip_mask: Bool[Tensor, "study clips"],
    ) -> Float[Tensor, "clip token dim"]:
        """Its tokens of every clip of the flat axis."""
        encoder = self.encoder
        cells = encode_clips(encoder.encode, video, clip_mask, encoder.has_class_token, self.clips_per_chunk)
        return gather_clips(cells.tokens, clip_mask, len(video))

    def train(self, mode: bool = True) -> "LaggingTeacher":
        """Always in evaluation mode: a target has no drop-path."""
        return super().train(False)
