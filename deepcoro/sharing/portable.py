"""A video encoder as a graph that runs without this package: torch.export's `.pt2` and ONNX, each held against the encoder before it is kept.

The graph is that of torchvision's MViT, which in evaluation is the same function and holds no kernel of ours: what a tracer follows has to be
torch's own operations.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from deepcoro.atomic import write_bytes
from deepcoro.config import ConfigError, DataError
from deepcoro.mvit.twin import torchvision_mvit
from deepcoro.towers.video_mvit import VideoMViT

logger = logging.getLogger(__name__)

PROGRAM, ONNX = "encoder.pt2", "encoder.onnx"
TOLERANCE = 1e-4
"""Of the largest token value: what the graph may differ by, in fp32."""
OPSET = 18
CLIPS = (1, 3)
"""Of the batches that both are asked: another number than the graph was traced with among them."""


class PortableEncoder(nn.Module):
    """Grey levels 0-255 to tokens, the class token first, in operations of torch alone."""

    def __init__(self, tower: VideoMViT, pixel_constants: tuple[float, float] | None):
        """`pixel_constants`: mean and std of the grey levels; None = films come normalised. ConfigError where torchvision's MViT cannot be
        what `tower` is.
        """
        super().__init__()
        built = tower.built_as
        _check(built)
        shapes = [block.shape for block in tower.blocks]
        self.encoder = torchvision_mvit(shapes, built["frames"], built["size_px"])
        self.encoder.head = nn.Identity()
        weights = {name: value for name, value in tower.state_dict().items() if not name.startswith("head.")}
        self.encoder.load_state_dict(weights)
        self.mean, self.std = pixel_constants or (0.0, 1.0)
        self.eval().requires_grad_(False)

    def forward(self, video: Float[Tensor, "clip 1 frame height width"]) -> Float[Tensor, "clip token dim"]:
        encoder = self.encoder
        patches = encoder.conv_proj(((video - self.mean) / self.std).expand(-1, 3, -1, -1, -1))
        tokens = encoder.pos_encoding(patches.flatten(2).transpose(1, 2))
        grid = (encoder.pos_encoding.temporal_size, *encoder.pos_encoding.spatial_size)
        for block in encoder.blocks:
            tokens, grid = block(tokens, grid)
        return encoder.norm(tokens)


def _check(built: dict) -> None:
    """ConfigError, saying what differs from torchvision's MViT."""
    wrong = []
    if built["positions"] != "relative":
        wrong.append(f"positions={built['positions']} (relative)")
    if not built["class_token"]:
        wrong.append("class_token=false (true)")
    if built["frames"] % 2 or built["size_px"] % 32:
        wrong.append(f"{built['frames']} frames of {built['size_px']} px (an even number, a multiple of 32)")
    if wrong:
        raise ConfigError(
            f"this encoder cannot be written as a graph: it has {', '.join(wrong)}; in brackets what can be"
        )


@dataclass(frozen=True)
class Portable:
    """Writes the graphs of an encoder into a folder."""

    tower: VideoMViT
    pixel_constants: tuple[float, float] | None
    onnx: bool = True
    """Whether to write ONNX beside torch's own format."""

    def write(self, folder: Path) -> dict:
        """What the card says of them: input, output, and the largest difference from the encoder. DataError when it is above TOLERANCE."""
        if self.onnx:
            _check_onnx()
        tower = self.tower.eval()
        portable = PortableEncoder(tower, self.pixel_constants)
        program = torch.export.export(
            portable,
            (_films(tower, CLIPS[-1]),),
            dynamic_shapes=({0: torch.export.Dim("clip", min=1)},),
        )
        torch.export.save(program, folder / PROGRAM)
        loaded = torch.export.load(folder / PROGRAM).module()
        differences = {PROGRAM: self._difference(loaded, PROGRAM)}
        if self.onnx:
            differences[ONNX] = self._difference(_written_as_onnx(program, folder / ONNX), ONNX)
        built = tower.built_as
        levels = "grey levels 0-255" if self.pixel_constants else "grey levels, normalised"
        return {
            "input": f"video: fp32 [clip, 1, {built['frames']}, {built['size_px']}, {built['size_px']}], {levels}",
            "output": f"tokens: fp32 [clip, token, {tower.dim}], the class token first",
            "largest_difference": differences,
        }

    def _difference(self, graph: Callable[[Tensor], Tensor], name: str) -> float:
        """The largest, as a share of the largest token value, over films of noise."""
        mean, std = self.pixel_constants or (0.0, 1.0)
        worst = 0.0
        for clips in CLIPS:
            films = _films(self.tower, clips)
            with torch.no_grad():
                wanted = self.tower.encode((films - mean) / std)
            worst = max(worst, ((graph(films) - wanted).abs().max() / wanted.abs().max()).item())
        if not worst <= TOLERANCE:  # not a number is no agreement either
            raise DataError(
                f"{name} differs from the encoder by {worst:.1e} of its values; allowed: {TOLERANCE:.0e}"
            )
        logger.info("%s: within %.1e of the encoder's tokens", name, worst)
        return worst


def _films(tower: VideoMViT, clips: int) -> Tensor:
    """Noise, the same for every call."""
    size = tower.built_as["size_px"]
    generator = torch.Generator().manual_seed(clips)
    return 255 * torch.rand(clips, 1, tower.built_as["frames"], size, size, generator=generator)


def _check_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "--onnx needs packages that are not installed: pip install 'deepcoro[onnx]'",
            topic="missing-packages",
        ) from error


def _written_as_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    """Writes the file; what comes back asks onnxruntime, on the CPU."""
    import onnxruntime

    written = torch.onnx.export(
        program,
        dynamo=True,
        input_names=["video"],
        output_names=["tokens"],
        opset_version=OPSET,
        verbose=False,
    )
    write_bytes(path, written.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda films: torch.from_numpy(session.run(["tokens"], {"video": films.numpy()})[0])
