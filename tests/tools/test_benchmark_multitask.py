from tests.tools.command import call_tool


def test_the_benchmark_prints_each_set_of_objectives_beside_contrastive_and_captioning(monkeypatch, capsys):
    words = (
        "--variant",
        "tiny",
        "--frames",
        4,
        "--size_px",
        32,
        "--text_dim",
        64,
        "--text_layers",
        2,
        "--repeats",
        1,
    )
    code, told, _ = call_tool("benchmark_multitask", (*words, "--latent", "ema"), monkeypatch, capsys)
    lines = told.splitlines()
    assert code == 0
    assert lines[0].startswith("2 films of 4 x 32² px, fp32, cpu, mask_ratio 0.75, latent ema")
    assert [line.split("  ")[0] for line in lines[1:]] == [
        "contrastive",
        "contrastive + captioning",
        "contrastive + captioning + masked_modeling",
    ]
    assert " 1.000 of contrastive + captioning" in lines[2]
