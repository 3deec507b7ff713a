"""Scrubbing: identifiers go, findings stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepcoro.angiography.grammar import parse, render
from deepcoro.ingest.scrub import scrub
from tests.angiography.test_grammar import side_findings

# Each text and the strings that must be gone.
IDENTIFYING = [
    ("Dr Tremblay a vu la patiente.", "Dr [NAME] a vu la patiente."),
    ("Dre Geneviève Tremblay-Roy.", "Dre [NAME]."),
    ("Drs Smith and Lavoie, CTO of the mid RCA.", "Drs [NAME], CTO of the mid RCA."),
    ("Dr. Long: LAD 70 %", "Dr. [NAME]: LAD 70 %"),
    ("Mr. O'Brien has LAD 70%.", "Mr. [NAME] has LAD 70%."),
    ("M. de la Durantaye, OM1 80 %.", "M. [NAME], OM1 80 %."),
    ("Prof. J.-P. Lavoie", "Prof. [NAME]"),
    ("MR SMITH HAS A CTO.", "MR [NAME] HAS A CTO."),
    ("dr tremblay a fait la coro", "dr [NAME] a fait la coro"),
    ("Patient: TREMBLAY, Genevieve", "Patient: [NAME]"),
    ("patient: John Smith LAD 80%", "patient: [NAME] LAD 80%"),
    ("Patient Tremblay was brought in.", "Patient [NAME] was brought in."),
    ("nom: tremblay", "nom: [NAME]"),
    ("Opérateur : Linh Nguyen. Sténose sévère.", "Opérateur : [NAME]. Sténose sévère."),
    ("Operator 1: Smith / Lavoie. TIMI 3", "Operator 1: [NAME]. TIMI 3"),
    ("signed by Ada Okafor, MD, FRCPC", "signed by [NAME], MD, FRCPC"),
    ("TIMI 3. Henri Lavoie, MD", "TIMI 3. [NAME], MD"),
    ("read by J. Smith", "read by [NAME]"),
    ("TREMBLAY^GENEVIEVE", "[NAME]"),
    ("Électroniquement signé par Henri Lavoie le 2021-09-17 à 09h30.", "Électroniquement signé par [NAME] le [DATE] à [TIME]."),
    ("Hôpital Saint-Exemple", "Hôpital [PLACE]"),
    ("seen at Maisonneuve Hospital", "seen at [PLACE] Hospital"),
    ("17/09/2021, 09/17/21, 17.09.21, 2021-09-17T09:30:12, 20210917, 20210917093012", "[DATE], [DATE], [DATE], [DATE], [DATE], [DATE]"),
    ("17 septembre 2021; 1er mars 2020; Sept 17, 2021; 3-Mar-2021; 12OCT2019; mars 2021; 09/2021", "[DATE]; [DATE]; [DATE]; [DATE]; [DATE]; [DATE]; [DATE]"),
    ("le 17/09, 17 septembre, March 3rd", "le [DATE], [DATE], [DATE]"),
    ("09:30, 9:30 am, 14h30, 14 h 30, 3 pm", "[TIME], [TIME], [TIME], [TIME], [TIME]"),
    ("MRN: 7734501 / dossier no 123456 / Accession ACC99183 / MRN 12-34-567", "MRN: [ID] / dossier no [ID] / Accession [ID] / MRN [ID]"),
    ("film 7734501", "film [ID]"),
    ("NAM: TREG 5503 1299, RAMQ TREG55031299, 123-45-6789", "NAM: [HEALTH_CARD], RAMQ [HEALTH_CARD], [HEALTH_CARD]"),
    ("514-555-0199; (514) 555-0199 poste 4521; 01 42 34 56 78; +33 1 42 34 56 78; tél.: 555-0199", "[PHONE]; [PHONE]; [PHONE]; [PHONE]; tél.: [PHONE]"),
    ("ada.okafor@chum.qc.ca", "[EMAIL]"),
    ("https://pacs.local/x?id=7", "[URL]"),
    ("4141 rue Sherbrooke, H2X 1Y4; 12 Maple Grove Street, IL 60615", "[ADDRESS], [POSTAL_CODE]; [ADDRESS], [POSTAL_CODE]"),
    ("1.2.826.0.1.3680043.9.7133.1.77345", "[UID]"),
    ("92-year-old woman; âgée de 94 ans; age 91", "[AGE]-year-old woman; âgée de [AGE] ans; age [AGE]"),
    (r"/data/films/TREMBLAY/x.dcm; C:\films\a.avi; film BOUCHARD-0.dcm", "[PATH]; [PATH]; film [PATH]"),
]  # fmt: skip

# Nothing here names anybody, and most of it looks as if it did.
MEDICAL = [
    "70-80 % stenosis of the mid LAD.", "Medina 1,1,0", "Medina 1/1/1", "iFR 0.84, FFR 0.80, RFR 0.89", "TIMI 3", "D1/OM2 and LAD/D1",
    "LVEF 35-40 %", "FEVG 35 à 40 %", "3.0 x 18 mm", "2,75/15 mm à 12 atm", "Xience Sierra 2.5x23, 3.0/38", "6F JL 3.5, EBU 3.5, AL1",
    "RCA 1-2-3", "segments 5/6", "segment 12a", "BP 145/85 mmHg", "PA 30/12/18", "Ao 120/80/95", "LV 120/10/15 mmHg",
    "pression VG 120/12/18", "LVEDP 12/14/16", "inflated at 10-12-14 atm", "1.5-2.0-2.5 mm", "stent 3.5-20", "12-14 mm", "30/25",
    "Severe MR. LAD 70%", "Moderate MR", "MR. TIMI 3", "severe mr with prolapse", "OCT 3.5 mm", "OCT 12 frames", "Segment 2 may be small",
    "may 3 stents fit", "stent in 2015", "en 2015", "1/3 proximal", "coronaire dr moyenne", "CD dr 70 %", "89-year-old", "89 ans", "90 % stenosis",
    "90 s", "SYNTAX 22.5", "DAP 123456 mGycm2", "24h post PCI", "48 h", "Patient with severe LAD disease", "Patient: Left dominant.",
    "patient : femme de 65 ans", "heparin 10000 UI", "Heparin 100000 UI", "Dr LAD 70%", "RAO 30 CAU 25", "LAO 45, CRA 25", "50% (30-70)",
    "Pr 120", "ISR 70-80 %", "RCA M. 80%", "PT 12 s", "Fluoroscopy time 12:34 min", "Calcium score 1250", "GFR 45, Hb 13.5, creat 1.2.",
    "ACT 250-300 s", "LM 5-6 mm", "PDA 90", "aged 65", "Artère coronaire droite : sténose 70-80 % au tiers moyen, TIMI 2.",
    "Collatéralité Rentrop 2/3.", "CTO: J-CTO score 3", "Lésion de bifurcation IVA/D1, Medina 1,1,1.", "LIMA-LAD patent; SVG-OM1 occluded.",
    "FFR 0,78 (hyperémie 140 µg/kg/min)", "No MACE at 30 days", "RVSP 45 mmHg, TAPSE 17 mm, E/e' 14", "E/A 0.8, DT 180 ms", "LVIDd 5.1 cm, IVSd 1.1 cm",
]  # fmt: skip


FRENCH_REPORT = """\
Patient : GAGNON, Marie-Claude   Dossier : 2345678   NAM : GAGM 6254 1203
Date de naissance : 1962-04-12 (59 ans)   Sexe : F
Date de l'examen : 14 mars 2022 08:45   Salle 3
Médecin référent : Dr Pierre-Luc Bouchard, Hôpital Charles-LeMoyne
Opérateurs : Dre Anne Côté / Dr S. Nguyen (fellow)
Coronarographie : voie radiale droite 6F, JL 3.5, JR 4. Héparine 5000 UI.
Tronc commun : normal. IVA : sténose 70-80 % au tiers proximal, Medina 1,1,0 avec D1. TIMI 3. iFR 0,84.
Circonflexe : irrégularités < 30 %. OM1 : 50 %. CD : dominante, occlusion chronique au tiers moyen, J-CTO 2, collatérales Rentrop 3.
VG : FE 55 %, PTDVG 18 mmHg. Ao 135/72 (98) mmHg.
Suivi par Mme Lefebvre, infirmière clinicienne, et le docteur Hassan; Mme Jeanne d'Arc Beaulieu prévenue.
Dicté par : Dre A. Côté le 2022-03-14 à 10 h 12. Transcrit par : jtremblay. c.c. Dr Bouchard
Signé électroniquement par Anne Côté MD FRCPC, permis 12345"""
ENGLISH_REPORT = """\
Patient Name: Smith, John A.  MRN: 00123456  DOB: 03/12/1948  Age: 73 y
Date of Procedure: March 14, 2022  Accession #: CA-22-004513. Study #12345
Attending: Robert Jones, MD; Fellow: Priya Patel MD. Referring physician: Dr. Wong. Sonographer: Kim Lee, RDCS.
Mr. Smith is a 73 year old man with DM, HTN s/p CABG x3 (LIMA-LAD, SVG-OM1, SVG-PDA) at St. Mary's Hospital in 2008.
LM: 30% distal. LAD: 100% proximal occlusion, TIMI 0. LIMA patent. D1 70%. LCx 80-90% mid. RCA 3.5 x 28 mm Xience at 14 atm.
Hemodynamics: Ao 120/65/85, LV 121/8/14, PA 32/14/21, PCWP 12. CO 4.5, CI 2.3. Contrast 95 mL. Fluoro 8.4 min, 812 mGy, DAP 65432.
IVUS MLA 5.2 mm2; FFR 0.78 -> 0.91. Rotablation 1.5 burr 160000 rpm. OCT 2 runs. ACT 289.
Plan: DAPT x 12 months. F/U Dr. Wong 2-4 weeks, call 416-555-1234 x22. Discussed with wife, Mary Smith. Mother was 91F.
Electronically signed by Robert Jones, M.D. on 3/14/2022 5:32 PM"""


@pytest.mark.parametrize(
    ("report", "gone", "kept"),
    [
        (
            FRENCH_REPORT,
            "GAGNON Claude 2345678 GAGM 1203 1962 mars 08:45 Bouchard LeMoyne Anne Nguyen Lefebvre Hassan Jeanne Beaulieu Côté jtremblay 12345",
            ("Salle 3", "59 ans", *FRENCH_REPORT.splitlines()[5:9]),
        ),
        (
            ENGLISH_REPORT,
            "Smith John 00123456 1948 March 004513 12345 Jones Priya Patel Wong Kim Lee Mary 416 555 x22 91 3/14 5:32",
            ("73 year old man", "(LIMA-LAD, SVG-OM1, SVG-PDA)", "in 2008", "2-4 weeks", *ENGLISH_REPORT.splitlines()[4:7]),
        ),
    ],
    ids=["french", "english"],
)  # fmt: skip
def test_a_whole_report_loses_its_people_and_none_of_its_findings(report, gone, kept):
    scrubbed = scrub(report).text
    words = scrubbed.replace("0.91", "")  # an FFR, not an age
    assert not [word for word in gone.split() if word in words]
    assert not [sentence for sentence in kept if sentence not in scrubbed]
    assert scrub(scrubbed).text == scrubbed


@given(findings=side_findings(), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("style", ["canonical", "paraphrased", "abbreviated", "french"])
def test_no_finding_is_lost_in_any_style_or_language(findings, seed, style):
    text = render(findings, style, np.random.default_rng(seed))
    assert scrub(text).text == text
    assert parse(scrub(text).text, strict=True) == findings
    assert scrub(text.upper()).text == text.upper() and scrub(text.lower()).text == text.lower()


@given(
    findings=side_findings(),
    seed=st.integers(0, 2**16),
    around=st.sampled_from([(0, 1), (5, 12), (14, 19), (19, 2), (22, 23), (26, 27)]),
)
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("style", ["canonical", "abbreviated", "french"])
def test_findings_survive_between_identifiers(findings, seed, around, style):
    before, after = (IDENTIFYING[number] for number in around)
    text = render(findings, style, np.random.default_rng(seed))
    scrubbed = scrub(f"{before[0].rstrip('.')}.\n{text}\n{after[0]}").text
    assert scrubbed == f"{before[1].rstrip('.')}.\n{text}\n{after[1]}"
    assert parse(scrubbed) == findings


@pytest.mark.parametrize(("text", "expected"), IDENTIFYING, ids=[text[:40] for text, _ in IDENTIFYING])
def test_identifiers_become_placeholders_and_the_rest_stays(text, expected):
    assert scrub(text).text == expected
    assert sum(scrub(text).replaced.values()) == expected.count("[")


@pytest.mark.parametrize("text", MEDICAL)
def test_what_only_looks_like_an_identifier_stays(text):
    assert scrub(text).text == text


@pytest.mark.parametrize("text", [*MEDICAL, *(text for text, _ in IDENTIFYING)])
def test_scrubbing_twice_changes_nothing_more(text):
    once = scrub(f"{text}. Severe stenosis (80 %) of the mid LAD.").text
    assert scrub(once).text == once


@given(text=st.text(st.sampled_from("aZé9. /-:,^\n[]ÉmDr21h%"), max_size=60))
@settings(max_examples=30, deadline=None)
def test_any_text_is_scrubbed_in_bounded_time_and_stays_so(text):
    once = scrub(text).text
    assert scrub(once).text == once


@pytest.mark.timeout(300)  # seconds; a quadratic pattern takes tens of minutes
def test_a_long_text_takes_no_long_time():
    for text in (
        "A " * 160_000,
        "1." * 160_000,
        "Dr " * 80_000,
        "a/" * 160_000,
        "Jean, " * 80_000,
        "1-" * 160_000,
    ):
        scrub(text)
