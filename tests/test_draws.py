"""One number and a tensor of them are stirred alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from deepcoro.draws import clip_keys, mix, mixed
from deepcoro.planning.pretend import Kind, pretended


@given(st.integers(0, 2**32 - 1))
def test_a_single_number_is_stirred_as_one_in_a_tensor(number: int) -> None:
    assert mixed(number) == mix(torch.tensor([number]).int()).item()


def test_what_is_drawn_after_a_pretended_step_hangs_on_its_seed() -> None:
    """Numbers drawn among pretended tensors were once remembered for the seed, as zeros."""
    mask, position = torch.ones(2, 1, dtype=torch.bool), torch.arange(2)
    seeds = (314_159, 271_828)
    with pretended("cpu", Kind()):
        for seed in seeds:
            clip_keys(seed, 2, torch.ones(2, 1, dtype=torch.bool), torch.arange(2))
    one, other = (clip_keys(seed, 2, mask, position) for seed in seeds)
    assert (one != other).all()
