import torch

from tools.benchmark_video import MODELS, main, make_model, parse_arguments

SMALL = ["--batch", "1", "--frames", "2", "--size_px", "32", "--repeats", "1"]


def test_a_small_run_prints_time_memory_and_their_ratio(capsys):
    main([*SMALL, "--precision", "fp32"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| fp32")]
    assert [row.split("|")[2].strip() for row in rows] == [*MODELS, "ratio"]
    for row in rows[:2]:
        assert float(row.split("|")[3].split()[0]) > 0
        assert float(row.split("|")[4]) > 0


def test_both_models_are_the_same_function_of_the_same_weights():
    options = parse_arguments(SMALL)
    theirs, ours = (make_model(name, options).eval() for name in MODELS)
    ours.load_kinetics_state_dict(theirs.state_dict())
    video = torch.randn(1, 3, 2, 32, 32)
    torch.testing.assert_close(ours(video), theirs(video), rtol=0, atol=1e-5)
