import pytest
import torch

from deepcoro.kernels.attention_plan import plan_attention
from deepcoro.kernels.key_split import KeySplit
from tests.kernels.attention_cases import make_case, relative_error, values_and_gradients


def test_parts_cover_all_keys_once_and_the_class_token_goes_with_the_first():
    split = KeySplit(frames_per_part=2, num_frames=5, first_column=10, num_class_tokens=1)
    assert list(split.parts(num_keys=1 + 5 * 6)) == [
        (slice(0, 13), slice(0, 2), slice(10, 12)),
        (slice(13, 25), slice(2, 4), slice(10, 12)),
        (slice(25, 31), slice(4, 5), slice(10, 11)),
    ]


@pytest.mark.parametrize("frames", [8, 6, 5, 2])
@pytest.mark.parametrize("has_class_token", [True, False])
def test_heads_of_the_real_width_give_the_same_in_parts_as_whole(frames, has_class_token):
    """The 14x14 keys of blocks 1, 3 and 14: 96 + 36 columns whole, 128 in parts."""
    case = make_case((frames, 4, 4), (frames, 14, 14), has_class_token=has_class_token, dim=96, table_std=0.1)
    case = case.to(torch.float32)
    whole = values_and_gradients(case, "flash", split_keys=False)
    parts = values_and_gradients(case, "flash", split_keys=True)
    plan = plan_attention(case.layout, case.q, 96, "flash", split_keys=True)
    assert plan.width <= 128
    for name, expected in whole.items():
        assert relative_error(parts[name], expected) < 1e-5, name


def test_parts_in_bfloat16_round_hardly_more_than_the_whole():
    case = make_case((8, 4, 4), (8, 14, 14), dim=96, table_std=0.1).to(torch.bfloat16)
    truth = values_and_gradients(case.to(torch.float64), "plain")
    whole = values_and_gradients(case, "flash", split_keys=False)
    parts = values_and_gradients(case, "flash", split_keys=True)
    for name, expected in truth.items():
        assert relative_error(parts[name], expected) < 1.5 * relative_error(whole[name], expected), name
