"""torch's CUDA kernels cannot run here: their declared shapes and signatures are met on the meta device, the numbers are not."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepcoro.kernels import library_attention
from deepcoro.kernels.attention_check import check_kernel
from deepcoro.kernels.attention_kernels import Attended, AttentionProblem
from deepcoro.kernels.attention_plan import FUSED_ON_CUDA, plan_kernel
from deepcoro.kernels.library_attention import CPU_FLASH, CUDNN, CUDNN_WIDE, EFFICIENT, FLASH

PROBLEM = AttentionProblem(96, (8, 14, 14), (8, 14, 14), True, False, torch.bfloat16, torch.device("cpu"))


@pytest.mark.parametrize("kernel", [FLASH, CUDNN, CUDNN_WIDE, EFFICIENT], ids=lambda kernel: kernel.name)
def test_the_calls_of_a_cuda_kernel_fit_its_signature(kernel):
    def empty(num_tokens, width):
        return torch.empty(2, num_tokens, 3, width, device="meta", dtype=torch.bfloat16)

    value_width = 128 if kernel.needs_wide_values else 96
    q, k, v = empty(65, 128), empty(40, 128), empty(40, value_width)
    attended = kernel.forward(q, k, v)
    assert attended.out.shape == (2, 65, 3, value_width)
    assert attended.logsumexp.shape == (2, 3, 65)
    gradients = kernel.backward(torch.empty_like(attended.out), q, k, v, attended)
    assert [each.shape for each in gradients] == [each.shape for each in (q, k, v)]


class LayoutsOfBackward(TorchDispatchMode):
    """Strides of the result and of its gradient as cuDNN's backward gets them."""

    def __init__(self):
        super().__init__()
        self.strides = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function is torch.ops.aten._scaled_dot_product_cudnn_attention_backward.default:
            self.strides = [arguments[0].stride(), arguments[4].stride()]
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("num_clips", [1, 2])
def test_cudnn_gets_its_result_and_the_gradient_in_one_layout(num_clips):
    """A merge of key parts once came out head by head: at one clip dQ and dK were wrong without a word."""
    q, k, v = (
        torch.empty(num_clips, length, 3, 96, device="meta", dtype=torch.bfloat16) for length in (65, 40, 40)
    )
    attended = CUDNN.forward(q, k, v)
    by_head = attended.out.transpose(1, 2).contiguous().transpose(1, 2)
    with LayoutsOfBackward() as layouts:
        CUDNN.backward(
            torch.empty(attended.out.shape, device="meta", dtype=torch.bfloat16),
            q,
            k,
            v,
            attended._replace(out=by_head),
        )
    assert layouts.strides[0] == layouts.strides[1]


def test_cudnn_gets_the_result_and_its_gradient_in_one_layout_always(monkeypatch):
    """torch looks its backward up without their strides."""
    seen = []

    def backward(by_out, q, k, v, out, *_, **__):
        seen.append((by_out.stride(), out.stride()))
        return q, k, v

    monkeypatch.setattr(
        library_attention, "aten", SimpleNamespace(_scaled_dot_product_cudnn_attention_backward=backward)
    )
    by_token = torch.zeros(2, 5, 3, 8)
    by_head = torch.zeros(2, 3, 5, 8).transpose(1, 2)
    nothing = torch.zeros(())
    extras = ((), *[nothing] * 6)
    for by_out, out in ((by_token, by_token), (by_head, by_token), (by_token, by_head), (by_head, by_head)):
        attended = Attended(out, torch.zeros(2, 3, 5), extras)
        CUDNN.backward(by_out, by_token, by_token, by_token, attended)
    assert len(seen) == 4 and len(set(seen)) == 1


def test_kernels_of_other_devices_and_formats_say_why_not():
    on_cuda = PROBLEM._replace(device=torch.device("cuda"))
    assert CPU_FLASH.refusal(PROBLEM) is None
    assert "CPU only" in CPU_FLASH.refusal(on_cuda)
    for kernel in (FLASH, CUDNN, EFFICIENT):
        assert "CUDA only" in kernel.refusal(PROBLEM)
        assert kernel.refusal(on_cuda) is None
    assert "float32" in FLASH.refusal(on_cuda._replace(dtype=torch.float32))
    assert EFFICIENT.refusal(on_cuda._replace(dtype=torch.float32)) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("split_keys", [False, True])
def test_some_fused_kernel_of_this_gpu_agrees_with_the_oracle(split_keys):
    problem = PROBLEM._replace(device=torch.device("cuda", 0))
    reasons = {}
    for kernel in FUSED_ON_CUDA[min(torch.cuda.get_device_capability()[0], 10)]:
        plan = plan_kernel(kernel, problem, 1, split_keys)
        refused = kernel.refusal(problem)
        reasons[kernel.name] = refused or check_kernel(
            kernel, plan.width, plan.value_width, problem, plan.split
        )
    assert None in reasons.values(), reasons
