import pytest

from tools.benchmark_contrastive import FORMS, main

SMALL = ["--batch", "96", "--dim", "32", "--tile", "16", "--repeats", "1"]


@pytest.mark.slow
def test_a_small_run_prints_bytes_and_time_of_each_form_beside_the_plain_loss(capfd):
    main([*SMALL, "--ranks", "1", "2"])
    table, formulas = capfd.readouterr().out.split("by formula")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "| 96 |" in line
    ]
    assert [row[:4] for row in rows] == [
        [loss, "96", ranks, form]
        for ranks in ("1", "2")
        for loss in ("clip", "siglip")
        for form in FORMS
        if (ranks, form) != ("1", "ring")
    ]
    for row in rows:
        assert float(row[4]) > 0 and float(row[6]) >= 0
        if row[3] == "plain":
            assert row[5] == "1.000"
    assert len([line for line in formulas.splitlines() if line.startswith("| ")]) == 6


def test_every_form_takes_features_of_16_bits(capfd):
    main([*SMALL[:-1], "0", "--ranks", "1", "--precision", "bf16"])
    table = capfd.readouterr().out.split("by formula")[0]
    assert len([line for line in table.splitlines() if "| 96 |" in line]) == 2 * (len(FORMS) - 1)
