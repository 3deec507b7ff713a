import torch

from deepcoro.kernels import precision


def test_half_precision_is_raised_on_a_processor_without_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    tensor = torch.zeros(2)
    assert precision.kernel_dtype(tensor.double()) == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert precision.autocast_dtype(tensor) == torch.bfloat16
        assert precision.kernel_dtype(tensor) == torch.float32


def test_half_precision_is_kept_where_the_processor_has_it(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    with torch.autocast("cpu", torch.bfloat16):
        assert precision.kernel_dtype(torch.zeros(2)) == torch.bfloat16
