"""The packages need a GPU: stand-ins with their signatures (flash-attn 2.8, hopper, cute) compute the same on a CPU."""

from types import SimpleNamespace

import pytest
import torch

from deepcoro.kernels import flash_attn_package
from deepcoro.kernels.attention_check import check_kernel
from deepcoro.kernels.attention_kernels import Attended, AttentionProblem
from deepcoro.kernels.attention_plan import plan_kernel
from deepcoro.kernels.flash_attn_package import FLASH_ATTN_2, FLASH_ATTN_3, FLASH_ATTN_4
from deepcoro.kernels.library_attention import cpu_flash_backward, cpu_flash_forward
from deepcoro.kernels.tiled_attention import tiled_forward

PROBLEM = AttentionProblem(96, (8, 14, 14), (8, 14, 14), True, False, torch.bfloat16, torch.device("cpu"))


def attend(q, k, v, softmax_scale):
    assert softmax_scale == 1.0
    if q.shape[-1] == v.shape[-1]:
        return cpu_flash_forward(q, k, v)[:2]
    logsumexp = torch.einsum("bqnc,bknc->bnqk", q.float(), k.float()).logsumexp(-1)
    return tiled_forward(q.float(), k.float(), v.float()).out.to(q.dtype), logsumexp


def gradients_of(dout, q, k, v, out, lse):
    width = q.shape[-1] - v.shape[-1]
    dout, v, out = (torch.nn.functional.pad(each, (0, width)) for each in (dout, v, out))
    by_q, by_k, by_v = cpu_flash_backward(dout, q, k, v, Attended(out, lse))
    return by_q, by_k, by_v[..., : v.shape[-1] - width]


def bind(signature: str, given: tuple, named: dict) -> SimpleNamespace:
    """The arguments by name, as a function of that signature takes them; a name with `=` may be left out."""
    names = [word.rstrip("=") for word in signature.split()]
    bound = dict(zip(names, given, strict=False))
    assert len(given) <= len(names)
    assert not named.keys() & bound.keys()
    bound |= named
    required = {word for word in signature.split() if not word.endswith("=")}
    assert required <= bound.keys() <= set(names)
    return SimpleNamespace(**bound)


SHARED_2 = "dropout_p softmax_scale causal window_size_left window_size_right softcap alibi_slopes"


def package_2():
    def forward(*given, **named):
        call = bind(f"q k v {SHARED_2} return_softmax", given, named)
        assert (call.dropout_p, call.causal, call.softcap) == (0.0, False, 0.0)
        assert (call.window_size_left, call.window_size_right) == (-1, -1)
        return (*attend(call.q, call.k, call.v, call.softmax_scale), torch.empty(0), torch.empty(2))

    def backward(*given, **named):
        signature = f"dout q k v out softmax_lse dq dk dv {SHARED_2} deterministic rng_state="
        call = bind(signature, given, named)
        assert (call.dropout_p, call.softmax_scale, call.causal, call.softcap) == (0.0, 1.0, False, 0.0)
        return write_gradients(call)

    return SimpleNamespace(_flash_attn_forward=forward, _flash_attn_backward=backward)


def package_3():
    def forward(*given, **named):
        call = bind("q k v k_new= v_new= qv= out_= softmax_scale= causal=", given, named)
        return (*attend(call.q, call.k, call.v, call.softmax_scale), torch.empty(0), torch.empty(0))

    def backward(*given, **named):
        signature = (
            "dout q k v out softmax_lse cu_seqlens_q= cu_seqlens_k= dq= dk= dv= softmax_scale= deterministic="
        )
        call = bind(signature, given, named)
        assert call.softmax_scale == 1.0
        return write_gradients(call)

    return SimpleNamespace(_flash_attn_forward=forward, _flash_attn_backward=backward)


def write_gradients(call):
    found = gradients_of(call.dout, call.q, call.k, call.v, call.out, call.softmax_lse)
    for gradient, value in zip((call.dq, call.dk, call.dv), found, strict=True):
        gradient.copy_(value)
    return torch.empty(0)


def package_4():
    def forward(*given, **named):
        call = bind("q k v cu_seqlens_q= softmax_scale= causal= return_lse=", given, named)
        assert call.return_lse
        return attend(call.q, call.k, call.v, call.softmax_scale)

    def backward(*given, **named):
        call = bind("q k v out dout lse softmax_scale= causal= softcap=", given, named)
        assert call.softmax_scale == 1.0
        assert call.dout.is_contiguous()
        return gradients_of(call.dout, call.q, call.k, call.v, call.out, call.lse)

    return SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)


PACKAGES = {FLASH_ATTN_2: package_2, FLASH_ATTN_3: package_3, FLASH_ATTN_4: package_4}


@pytest.mark.parametrize("split_keys", [False, True])
@pytest.mark.parametrize("kernel", PACKAGES, ids=lambda kernel: kernel.name)
def test_what_is_handed_to_a_package_and_taken_from_it_makes_attention(monkeypatch, kernel, split_keys):
    monkeypatch.setattr(flash_attn_package, "installed", lambda name: PACKAGES[kernel]())
    plan = plan_kernel(kernel, PROBLEM, 1, split_keys)
    assert check_kernel(kernel, plan.width, plan.value_width, PROBLEM, plan.split) is None


@pytest.mark.parametrize("kernel", PACKAGES, ids=lambda kernel: kernel.name)
def test_a_package_is_refused_where_it_cannot_run(monkeypatch, kernel):
    on_cuda = PROBLEM._replace(device=torch.device("cuda"))
    assert kernel.refusal(PROBLEM) == "it runs on CUDA only"
    assert "not torch.float32" in kernel.refusal(on_cuda._replace(dtype=torch.float32))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert kernel.refusal(on_cuda) == "it is not written for compute capability 7.x"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flash_attn_package, "installed", lambda name: None)
    assert "does not import" in kernel.refusal(on_cuda)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without a CUDA device")
def test_no_package_is_looked_for_without_cuda():
    assert flash_attn_package.installed("flash_attn_2") is None
