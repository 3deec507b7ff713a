import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from deepcoro.live_bytes import LiveBytes, saved_bytes, step_bytes


def test_a_storage_counts_once_however_many_views_of_it_are_held():
    with LiveBytes() as live:
        rows = torch.zeros(10, 4)
        views = [rows[1:], rows.T, rows.flatten()]
    assert live.now == rows.nbytes
    del rows, views
    assert live.now == 0
    assert live.peak == 160


def test_what_existed_before_is_not_counted():
    before = torch.zeros(100)
    with LiveBytes() as live:
        view = before[:50]
        before.add_(1)
        other = view + 1
    assert live.now == other.nbytes


def test_what_an_mlp_keeps_is_its_activations_and_its_result():
    model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 4))
    batch = torch.zeros(16, 8)
    assert saved_bytes(model, batch) == 4 * 16 * (32 + 32 + 4)


def test_a_checkpoint_keeps_its_result_and_makes_its_peak_again():
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 4))
    batch = torch.zeros(512, 8)

    def recomputed(video):
        return checkpoint(model, video, use_reentrant=False)

    assert saved_bytes(recomputed, batch) < saved_bytes(model, batch) / 10
    plain, again = step_bytes(lambda: model(batch).sum()), step_bytes(lambda: recomputed(batch).sum())
    assert again.kept < plain.kept / 10
    assert again.peak > plain.kept


def test_gradients_of_parameters_are_part_of_the_peak():
    layer = nn.Linear(1000, 1, bias=False)
    measured = step_bytes(lambda: layer(torch.zeros(1, 1000)).sum())
    assert layer.weight.grad is not None
    assert measured.peak >= layer.weight.nbytes
