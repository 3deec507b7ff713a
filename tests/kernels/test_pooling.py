import pytest
import torch
import torch.nn.functional as F

from deepcoro.kernels.pooling import depthwise_pool, max_pool_frames


def make_inputs(heads=2, dim=3, frames=4):
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(
        2, frames, 9, 8, heads * dim, generator=generator, dtype=torch.float64, requires_grad=True
    )
    weight = torch.randn(dim, 1, 3, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return grid, weight


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_pooling_by_frames_equals_the_3d_convolution_in_values_and_gradients(stride, frames):
    grid, weight = make_inputs(frames=frames)
    results = []
    for backend in ("frames", "conv3d"):
        pooled = depthwise_pool(grid, weight, stride, backend)
        results.append([pooled, *torch.autograd.grad(pooled.sin().sum(), [grid, weight])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_every_head_is_pooled_by_the_same_filters():
    grid, weight = make_inputs(heads=2)
    both = depthwise_pool(grid, weight, 2)
    for head, channels in enumerate((slice(0, 3), slice(3, 6))):
        alone = depthwise_pool(grid[..., channels], weight, 2)
        torch.testing.assert_close(both[..., channels], alone, msg=f"head {head}")


def test_a_grid_that_needs_no_gradient_gets_none():
    grid, weight = make_inputs()
    depthwise_pool(grid.detach(), weight, 1).sum().backward()
    assert weight.grad is not None
    assert grid.grad is None


def test_the_skip_pooling_is_the_maximum_over_space_frame_by_frame():
    grid, _ = make_inputs()
    film = grid.permute(0, 4, 1, 2, 3)
    expected = F.max_pool3d(film, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)).permute(0, 2, 3, 4, 1)
    assert torch.equal(max_pool_frames(grid, 2), expected)


def test_an_unknown_pooling_backend_is_refused():
    with pytest.raises(ValueError, match="'cudnn'"):
        depthwise_pool(*make_inputs(), 1, "cudnn")


def test_half_precision_is_pooled_in_fp32_and_kept_in_half():
    grid, weight = (tensor.detach().float() for tensor in make_inputs())
    grid.requires_grad_()
    kept = []
    hooks = (lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(*hooks):
        pooled = depthwise_pool(grid, weight, 1, "frames")
    assert pooled.dtype == torch.bfloat16
    assert [tensor.dtype for tensor in kept if tensor.shape == grid.shape] == [torch.bfloat16]
    torch.testing.assert_close(pooled.float(), depthwise_pool(grid, weight, 1), rtol=1e-2, atol=5e-2)
    pooled.float().sum().backward()
    assert grid.grad.isfinite().all()
