"""Identifiers planted into generated reports, as people and machines write them: none survives, and every finding does."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.angiography.grammar import parse, render
from deepcoro.ingest.scrub import scrub
from tests.angiography.test_grammar import side_findings

SURNAMES = (
    *("Tremblay", "Bouchard", "Gagné-Roy", "O'Brien", "Nguyen", "Côté", "D'Amours", "Okafor", "St-Pierre", "McKenzie"),
    *("Žižek", "Đặng", "Łukaszewicz", "Şahin", "Ó'Súilleabháin", "van der Berg", "de la Durantaye", "Lefèvre"),
)  # fmt: skip
FIRST_NAMES = ("Geneviève", "Jean-Marc", "Ada", "Linh", "Priya", "Zoé", "J.-P.", "Émile")
GLUE = st.sampled_from(("", "", "inf", "x", "mrn", "né", "_", "XA"))
DATE_FORMATS = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y_%m_%d", "%Y - %m - %d", "%Y%m%d", "%Y%m%d093012"),
    *("%d/%m/%Y", "%d-%m-%Y", "%d.%m.%Y", "%d / %m / %Y", "%m/%d/%Y", "%d%b%Y", "%d-%b-%Y", "%d/%b/%Y", "%d %B %Y"),
    *("%B %d, %Y", "%B%d,%Y", "%Y %b %d", "%Y–%m–%d", "%Y‑%m‑%d", "%d\u00a0%B\u00a0%Y", "%Y-%m-%dT%H:%M:%S"),
)  # fmt: skip
FRENCH_MONTHS = (
    *("janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre"),
    "décembre",
)  # fmt: skip


@st.composite
def dates(draw) -> tuple[str, list[str]]:
    """A date as written, and what of it must be gone."""
    day = draw(st.dates(datetime.date(1920, 1, 1), datetime.date(2029, 12, 31)))
    if draw(st.booleans()):
        written = day.strftime(draw(st.sampled_from(DATE_FORMATS)))
    else:
        gap = draw(st.sampled_from((" ", "", "-", "\u202f")))
        written = gap.join((str(day.day), FRENCH_MONTHS[day.month - 1], str(day.year)))
    return draw(GLUE) + written + draw(GLUE), [str(day.year)]


@st.composite
def names(draw) -> tuple[str, list[str]]:
    surname, first = draw(st.sampled_from(SURNAMES)), draw(st.sampled_from(FIRST_NAMES))
    shapes = (
        *("Dr {s}", "Dr. {f} {s}", "Dr.{s}", "Dre\u00a0{s}", "Dre {f} {s}", "Dr\n{s}", "Mme {s}", "M. {s}", "Monsieur {s}"),
        *("Patient : {s}, {f}", "Patient Name: {s}, {f}", "Opérateur : {f} {s}", "Operator\t{f} {s}", "Operator | {s}"),
        *("Cardiologue - {s}", "signé par {f} {s}", "signed by:{f} {s}", "Dicté par : {s}", "{f} {s}, MD", "{f} {s} MD FRCPC"),
        *("referring physician: {s}", "Fellow: {s} / {f}", "Nom : {s}"),
    )  # fmt: skip
    written = draw(st.sampled_from(shapes)).format(s=surname, f=first)
    return written, [max(surname.replace("'", "-").split("-"), key=len)]


@st.composite
def numbers(draw) -> tuple[str, list[str]]:
    digits = "".join(map(str, draw(st.lists(st.integers(0, 9), min_size=10, max_size=10))))
    birth = draw(st.dates(datetime.date(1930, 1, 1), datetime.date(2010, 12, 31)))
    ramq = (
        birth.strftime("TREG %y")
        + f"{birth.month + draw(st.sampled_from((0, 50))):02d} {birth:%d}{digits[:2]}"
    )
    glued = draw(GLUE)
    written, gone = draw(
        st.sampled_from(
            [
                (f"MRN {digits[:7]}", digits[:7]),
                (f"MRN: {digits[:3]} {digits[3:5]} {digits[5:7]}", f"{digits[:3]} {digits[3:5]}"),
                (f"{glued}{digits[:8]}{glued}", digits[:8]),
                (f"dossier no.{digits[:6]}", digits[:6]),
                (f"Accession: CA-{digits[:2]}-{digits[2:8]}", digits[2:8]),
                (ramq, ramq[:9]),
                (ramq.replace(" ", "") + glued, ramq[:4]),
                (ramq.replace(" ", "").lower(), "treg"),
                (f"1.2.826.0.1.{digits[:5]}.{digits[5:]}{glued}", digits[5:]),
                (f"{glued}(514) {digits[:3]}-{digits[3:7]}", digits[3:7]),
                (f"514-{digits[:3]}-{digits[3:7]}{glued}", digits[3:7]),
                (f"514.{digits[:3]}.{digits[3:7]} poste {digits[7:]}", digits[3:7]),
                (f"a.tremblay{digits[:4]}@chum.qc.ca", digits[:4]),
                (f"/data/TREMBLAY/{digits}.dcm", "TREMBLAY"),
                (f"TREMBLAY_ADA_{birth:%Y%m%d}", "TREMBLAY"),
                ("TREMBLAY^ADA", "TREMBLAY"),
                ("H2X 1Y4", "1Y4"),
            ]
        )
    )
    return written, [gone]


@given(
    findings=side_findings(),
    planted=st.lists(st.one_of(dates(), names(), numbers()), min_size=1, max_size=4),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("style", ["canonical", "abbreviated", "french"])
def test_no_planted_identifier_survives_and_every_finding_does(findings, planted, seed, style):
    random = np.random.default_rng(seed)
    report = render(findings, style, random)
    pieces = [f"{written}." for written, _ in planted]
    pieces.insert(int(random.integers(len(pieces) + 1)), report)
    scrubbed = scrub("\n".join(pieces)).text
    assert not [gone for _, every in planted for gone in every if gone in scrubbed]
    assert report in scrubbed
    assert parse(scrubbed) == parse(report) == findings
    assert scrub(scrubbed).text == scrubbed


@given(planted=st.one_of(dates(), numbers()), before=st.sampled_from("éxZ_"), after=st.sampled_from("éaM_"))
@settings(max_examples=25, deadline=None)
def test_letters_glued_to_a_number_hide_nothing(planted, before, after):
    written, every = planted
    for text in (f"{before} {written}{after}", f"vu {written}", f"{written}, suivi"):
        assert not [gone for gone in every if gone in scrub(text).text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DDN1955-03-12inf", "DDN[DATE]inf"),
        ("12mars1955inf, le12 mars 1955", "[DATE]inf, le[DATE]"),
        ("12 / 03 / 1955; 1955 - 03 - 12; 14/MAR/2022", "[DATE]; [DATE]; [DATE]"),
        ("2O21-O3-l2 puis MRN 77345O1 et 77345O1", "[DATE] puis MRN [ID] et [ID]"),
        ("DDN 55-03-12, née le 550312", "DDN [DATE], née le [DATE]"),
        ("MRN 773 45 01, dossier 123 70 %", "MRN [ID], dossier [ID] 70 %"),
        ("NAMTREG55031299, treg55031299inf", "NAM[HEALTH_CARD], [HEALTH_CARD]inf"),
        ("tel514-555-0199, 514-555-0199inf", "tel[PHONE], [PHONE]inf"),
        ("Roy,7734501 no.123456 7734501nguyen", "Roy,[ID] no.[ID] [ID]nguyen"),
        ("DrTremblay; Dr.Tremblay; dr.tremblay; MmeRoy; M.Roy", "Dr[NAME]; Dr.[NAME]; dr.[NAME]; Mme[NAME]; M.[NAME]"),
        ("Dr.de la Durantaye", "Dr.[NAME]"),
        ("TremblayMD; Tremblay,MD", "[NAME]MD; [NAME],MD"),
        ("Dr\u00a0Tremblay, Ope\u0301rateur\u00a0: Roy", "Dr [NAME], Opérateur : [NAME]"),
        ("PATIENT GAGNON, MARIE; Roy^Jean; ROY_JEAN_19550312_XA", "PATIENT [NAME]; [NAME]; [NAME]_[DATE]_XA"),
        ("2021-09-17 100 % LAD", "[DATE] 100 % LAD"),
    ],
)  # fmt: skip
def test_what_a_scanner_or_a_hurried_typist_joins_is_found(text, expected):
    assert scrub(text).text == expected


@pytest.mark.parametrize(
    "text",
    ["M.D.", "Dr\nLAD 70 %", "HEPARIN10000 UI", "Xience 2,5x23\u00a0mm", "12:34 s", "sténose 70–80 %", "RCA-PDA_1", "XA_20"],
)  # fmt: skip
def test_what_only_looks_joined_stays(text):
    assert scrub(text).text == text
