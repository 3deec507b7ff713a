import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deepcoro.kernels.attention_layout import AttentionLayout
from deepcoro.kernels.position_terms import query_terms


class LargestResult(TorchDispatchMode):
    """Counts the elements of what each operation makes or shows: a kernel may copy a view whose elements repeat."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if isinstance(result, torch.Tensor):
            self.num_elements = max(self.num_elements, result.numel())
        return result


def test_terms_of_visible_queries_copy_no_table_for_each_of_them():
    """Queries are strided views; a matrix product of four axes once copied all tables for each token (5 s a step)."""
    layout = AttentionLayout(
        (4, 8, 8), (4, 4, 4), True, torch.arange(64).expand(2, -1), torch.arange(16).expand(2, -1)
    )
    tables = tuple(torch.randn(2 * size - 1, 16) for size in (4, 8, 8))
    q = torch.randn(2, 1 + 64, 2, 24)[:, 1:, :, :16]
    num_rows = sum(len(table) for table in tables)
    with LargestResult() as largest:
        query_terms(q, tables, layout)
    assert largest.num_elements <= 2 * 64 * 2 * num_rows
