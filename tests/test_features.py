import pytest
import torch

from deepcoro.features import VideoFeatures, encode_clips, flatten_studies, gather_clips, scatter_clips


class CountingEncoder:
    """Two tokens a clip: its mean and twice that, times a learnt scale."""

    def __init__(self):
        self.scale = torch.ones(1, requires_grad=True)
        self.sizes = []

    def __call__(self, video):
        self.sizes.append(len(video))
        means = video.flatten(1).mean(1)
        return torch.stack((means, 2 * means), dim=1)[:, :, None] * self.scale


def films(*values):
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 2, 2, 2).clone()


MASK = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])


def test_real_clips_land_in_their_cells_and_padding_is_zero():
    features = encode_clips(CountingEncoder(), films(1, 2, 3), MASK, has_class_token=True)
    assert features.per_video()[..., 0].tolist() == [[1, 0, 2], [0, 0, 0], [0, 3, 0]]
    assert features.aggregate()[:, 0].tolist() == [1.5, 0, 3]
    assert features.patches()[..., 0].tolist() == [[1, 2, 0, 0, 2, 4], [0] * 6, [0, 0, 3, 6, 0, 0]]


def test_cells_gathered_are_the_rows_that_were_scattered():
    rows = torch.arange(3.0).reshape(3, 1, 1) + 1
    assert torch.equal(gather_clips(scatter_clips(rows, MASK), MASK, 3), rows)
    nothing = torch.zeros_like(MASK)
    assert gather_clips(scatter_clips(rows[:1], nothing), nothing, 1).tolist() == [[[0]]], "a stand-in"


def test_without_a_class_token_a_clip_is_the_mean_of_its_tokens():
    features = encode_clips(CountingEncoder(), films(1, 2, 3), MASK, has_class_token=False)
    assert features.per_video()[..., 0].tolist() == [[1.5, 0, 3], [0, 0, 0], [0, 4.5, 0]]


@pytest.mark.parametrize("clips_per_chunk", [1, 2, 4, 9, 100, None])
def test_chunking_changes_neither_values_nor_gradients(clips_per_chunk):
    results = []
    for chunk in (None, clips_per_chunk):
        encoder, video = CountingEncoder(), films(1, 2, 3).requires_grad_()
        features = encode_clips(encoder, video, MASK, True, chunk)
        loss = (features.tokens * torch.arange(6).reshape(3, 1, 2, 1)).sum()
        results.append([features.tokens, *torch.autograd.grad(loss, [video, encoder.scale])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("num_real", [0, 1, 4, 6])
def test_the_number_of_encoder_calls_follows_from_the_shape_of_the_mask_alone(num_real):
    mask = (torch.arange(6) < num_real).reshape(2, 3)
    encoder = CountingEncoder()
    encode_clips(encoder, films(*range(max(num_real, 1))), mask, True, clips_per_chunk=2)
    assert len(encoder.sizes) == 3
    assert sum(encoder.sizes) <= max(num_real, 1) + 2


def test_an_idle_chunk_is_connected_to_the_result_with_a_gradient_of_zero():
    encoder = CountingEncoder()
    features = encode_clips(encoder, films(5), torch.tensor([[False, True, False]]), True, clips_per_chunk=1)
    assert encoder.sizes == [1, 1, 1]
    features.tokens.sum().backward()
    assert encoder.scale.grad.item() == 15


def test_a_batch_without_any_clip_is_all_zero_and_still_has_a_graph():
    encoder = CountingEncoder()
    features = encode_clips(encoder, films(7), torch.zeros(2, 2, dtype=torch.bool), True)
    assert not features.tokens.any()
    features.aggregate().sum().backward()
    assert encoder.scale.grad.item() == 0


def test_padding_a_study_with_more_cells_changes_nothing():
    wider = torch.nn.functional.pad(MASK, (0, 3))
    narrow = encode_clips(CountingEncoder(), films(1, 2, 3), MASK, True)
    wide = encode_clips(CountingEncoder(), films(1, 2, 3), wider, True)
    assert torch.equal(narrow.aggregate(), wide.aggregate())


def test_a_flat_axis_that_disagrees_with_the_mask_is_refused():
    with pytest.raises(ValueError, match="2 clips but clip_mask marks 3"):
        encode_clips(CountingEncoder(), films(1, 2), MASK, True)


def test_scatter_agrees_with_a_boolean_assignment():
    torch.manual_seed(0)
    for _ in range(20):
        mask = torch.rand(3, 4) < 0.5
        tokens = torch.randn(max(int(mask.sum()), 1), 2, 5)
        expected = torch.zeros(3, 4, 2, 5)
        expected[mask] = tokens[: int(mask.sum())]
        assert torch.equal(scatter_clips(tokens, mask), expected)


def test_flattening_a_padded_grid_keeps_the_real_clips_in_order():
    grid = films(*range(9)).reshape(3, 3, 1, 2, 2, 2)
    flat, mask = flatten_studies(grid, MASK)
    assert flat[:, 0, 0, 0, 0].tolist() == [0, 2, 7]
    assert torch.equal(mask, MASK)
    flat, mask = flatten_studies(grid, None)
    assert len(flat) == 9
    assert mask.all()


def test_features_are_immutable():
    features = VideoFeatures(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, dtype=torch.bool), True)
    with pytest.raises(AttributeError):
        features.has_class_token = False
