"""Geometry of an MViTv2: what grid, width and heads each block has, and the published variants."""

from dataclasses import dataclass

from deepcoro.kernels.grid import Grid, strided


@dataclass(frozen=True)
class BlockShape:
    """Geometry of one block; strides are spatial, time is never pooled inside the encoder."""

    grid: Grid
    dim_in: int
    dim_out: int
    heads: int
    query_stride: int
    key_stride: int

    @property
    def head_dim(self) -> int:
        return self.dim_out // self.heads

    @property
    def query_grid(self) -> Grid:
        return strided(self.grid, self.query_stride)

    @property
    def key_grid(self) -> Grid:
        return strided(self.grid, self.key_stride)


@dataclass(frozen=True)
class Variant:
    """Width and depth of an encoder; at `stage_starts` the width and heads double and the grid halves."""

    dim: int
    depth: int
    stage_starts: tuple[int, ...]
    key_stride: int
    drop_path_rate: float
    heads: int = 1
    """Heads of the first block; a head is as wide in every block."""

    def block_shapes(self, grid: Grid, kv_grid: str = "full") -> list[BlockShape]:
        """One shape a block. `kv_grid="fast"`: keys and values of the blocks that halve the grid have the grid of all others too."""
        shapes, dim, heads, key_stride = [], self.dim, self.heads, self.key_stride
        for number in range(self.depth):
            doubles = number in self.stage_starts
            dim_in, stride_before = dim, key_stride
            if doubles:
                dim, heads, key_stride = dim * 2, heads * 2, max(key_stride // 2, 1)
            stride = stride_before if kv_grid == "fast" else key_stride
            shapes.append(BlockShape(grid, dim_in, dim, heads, 2 if doubles else 1, stride))
            grid = shapes[-1].query_grid
        return shapes


# Sources: torchvision's mvit_v2_s; SlowFast's configs/Kinetics/MVITv2_{S_16x4,B_32x3,L_40x3_test}.yaml.
VARIANTS = {
    "mvit_v2_s": Variant(dim=96, depth=16, stage_starts=(1, 3, 14), key_stride=8, drop_path_rate=0.2),
    "mvit_v2_b": Variant(dim=96, depth=24, stage_starts=(2, 5, 21), key_stride=8, drop_path_rate=0.3),
    "mvit_v2_l": Variant(
        dim=144, depth=48, stage_starts=(2, 8, 44), key_stride=8, drop_path_rate=0.75, heads=2
    ),
    "demo": Variant(dim=32, depth=5, stage_starts=(1, 3), key_stride=4, drop_path_rate=0.0),
    "tiny": Variant(dim=16, depth=3, stage_starts=(1, 2), key_stride=4, drop_path_rate=0.0),
}
