"""What a table gives is scrubbed once a distinct text, by as many processes as there are, to the same words and counts."""

import subprocess
import sys

import pytest

from deepcoro.ingest import scrubber as module
from deepcoro.ingest.scrub import scrub
from deepcoro.ingest.scrubber import Scrubber
from tests.ingest.test_scrub import IDENTIFYING, MEDICAL
from tests.launch import ROOT


def test_two_processes_give_the_words_and_counts_of_one(monkeypatch):
    texts = [text for text, _ in IDENTIFYING] + MEDICAL
    alone, together = Scrubber(), Scrubber(workers=2)
    alone.prepare([*texts, None])
    monkeypatch.setattr(module, "_WORTH_A_POOL", 0)
    monkeypatch.setattr(module, "_CHUNK", len(texts) // 5)
    pools = []
    monkeypatch.setattr(
        module, "worker_pool", lambda workers, make=module.worker_pool: pools.append(workers) or make(workers)
    )
    together.prepare([None, *texts, *texts])
    assert pools == [2]
    assert [together.text(text) for text in texts] == [alone.text(text) for text in texts]
    assert list(together.replaced.items()) == list(alone.replaced.items()) and together.replaced["NAME"] > 3


def test_a_text_is_scrubbed_once_however_often_it_is_met(monkeypatch):
    asked = []
    monkeypatch.setattr(module, "scrub", lambda text: asked.append(text) or scrub(text))
    scrubber = Scrubber()
    scrubber.prepare(["Dr Roy", "LAD 70 %", "Dr Roy", None])
    assert (
        scrubber.text("Dr Roy") == "Dr [NAME]"
        and scrubber.text("Dr Gagné") == scrubber.text("Dr Gagné") == "Dr [NAME]"
    )
    assert asked == ["Dr Roy", "LAD 70 %", "Dr Gagné"] and scrubber.replaced == {"NAME": 2}


def test_nothing_is_scrubbed_when_it_is_off(monkeypatch):
    monkeypatch.setattr(module, "scrub", pytest.fail)
    scrubber = Scrubber(on=False, workers=2)
    scrubber.prepare(["Dr Roy"])
    assert scrubber.text("Dr Roy") == "Dr Roy" and not scrubber.replaced


def test_the_counts_are_by_kind_and_a_text_counts_once():
    scrubber = Scrubber()
    for _ in range(3):
        assert scrubber.text("Dr Roy, 17/09/2021; Dre Gagné") == "Dr [NAME], [DATE]; Dre [NAME]"
    assert scrubber.replaced == {"NAME": 2, "DATE": 1}
    assert Scrubber(on=False).text("Dr Roy") == "Dr Roy" and scrubber.text(None) is None


def test_labels_are_scrubbed_too_and_record_numbers_are_left_out_and_counted():
    scrubber = Scrubber()
    assert scrubber.label("dominance", "right") == "right" and scrubber.label("cto", 1.0) == 1.0
    assert scrubber.label("operator", "Dr Roy") == "Dr [NAME]" and scrubber.label("x", None) is None
    assert scrubber.label("mrn", 7734501.0) is None and scrubber.label("day", 20210917.0) is None
    assert scrubber.label("calcium", 4999.0) == 4999.0 and scrubber.label("volume", 123456.5) == 123456.5
    assert scrubber.withheld == {"mrn": 1, "day": 1}
    assert Scrubber(on=False).label("mrn", 7734501.0) == 7734501.0


def test_a_view_is_made_of_words_of_views():
    scrubber = Scrubber()
    for name in ("RAO_CAU", "LAO_CRANIAL", "AP", "A4C", "PLAX", "2CH", "RAO_30_CAU_20", "SPIDER", None):
        assert scrubber.view(name) == name
    assert scrubber.view("MME_TREMBLAY") is None and scrubber.withheld == {"view": 1}


def test_its_patterns_are_compiled_when_the_first_text_is_scrubbed():
    code = "import sys, deepcoro.ingest.scrubber; sys.exit('deepcoro.ingest.scrub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
