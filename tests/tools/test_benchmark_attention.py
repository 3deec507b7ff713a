from tools.benchmark_attention import main


def test_every_shape_and_kernel_is_in_the_table_and_refusals_below_it(capsys):
    main(["--frames", "4", "--size_px", "64", "--repeats", "1", "--precision", "fp32", "--plain"])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| (")]
    assert len(rows) == 7
    assert all("cpu_flash wide" in row and "tiled wide" in row and "plain" in row for row in rows)
    assert all(row.count("*") == 1 for row in rows)
    assert "- cudnn: it runs on CUDA only" in printed


def test_sparse_shapes_are_measured_without_a_split(capsys):
    main(["--frames", "2", "--size_px", "64", "--repeats", "1", "--precision", "bf16", "--visible", "0.25"])
    assert "split" not in capsys.readouterr().out
