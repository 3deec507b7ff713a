"""The grid of a film's tokens: frames, height and width."""

Grid = tuple[int, int, int]
"""Frames, height and width in tokens."""


def strided(grid: Grid, stride: int) -> Grid:
    """Frames, height and width after a spatial stride with half-kernel padding."""
    frames, height, width = grid
    return frames, (height - 1) // stride + 1, (width - 1) // stride + 1


def num_cells(grid: Grid) -> int:
    return grid[0] * grid[1] * grid[2]
