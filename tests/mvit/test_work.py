import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from deepcoro.mvit.shapes import VARIANTS
from deepcoro.mvit.work import clip_work
from deepcoro.video_benchmark import make_torchvision_model


@pytest.mark.parametrize(("frames", "size_px"), [(4, 64), (2, 96)])
def test_the_formula_gives_the_flops_counted_in_torchvisions_forward(frames, size_px):
    model = make_torchvision_model(frames, size_px)
    model.head = torch.nn.Identity()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, frames, size_px, size_px))
    shapes = VARIANTS["mvit_v2_s"].block_shapes((frames // 2, size_px // 4, size_px // 4))
    # torchvision pools and multiplies the class token by the tables nowhere: a few numbers in a million
    assert clip_work(shapes).flops == pytest.approx(counter.get_total_flops(), rel=5e-3)


def test_the_published_encoder_takes_128_gflop_and_a_quarter_of_its_patches_a_quarter_of_most():
    shapes = VARIANTS["mvit_v2_s"].block_shapes((8, 56, 56))
    whole, quarter = clip_work(shapes), clip_work(shapes, visible=0.25)
    assert whole.flops == pytest.approx(129.0e9, rel=0.01)
    assert 0.2 < quarter.flops / whole.flops < 0.25  # attention falls with the square
    assert quarter.values / whole.values == pytest.approx(0.25, rel=0.02)
