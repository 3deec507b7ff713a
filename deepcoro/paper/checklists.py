"""Reporting checklists filled from the record of a run: TRIPOD+AI (Collins et al. 2024, 10.1136/bmj-2023-078378) and CLAIM (Mongan et al.
2020, 10.1148/ryai.2020200029; its update of 2024 numbers some items otherwise).

Items are named in our own short words, by their published numbers. `topic` names the answer of `paper/answers.py`; an item without one is
for the authors alone, and an answer that the record does not hold is said to be missing. Nothing is ever ticked for the authors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepcoro.paper.sheets import Sheet

FOR_THE_AUTHORS = "for the authors to write"
NOT_RECORDED = "not in the record of this run"


@dataclass(frozen=True)
class Item:
    """One item of a checklist."""

    number: str
    asks: str
    topic: str | None = None
    """Name of the answer; None = no record can know it."""


TRIPOD_AI = (
    Item("1", "title: development or evaluation of a prediction model, population, outcome"),
    Item("2", "abstract by TRIPOD+AI for abstracts"),
    Item("3a", "clinical context, and models that exist"),
    Item("3b", "whom it is for, where in the care pathway, who uses it"),
    Item("3c", "known inequalities between groups of people"),
    Item("4", "aims: development, evaluation or both", "aims"),
    Item("5a", "where the data come from, and whom they represent", "sources"),
    Item("5b", "dates of accrual and follow-up"),
    Item("6a", "setting, number and places of centres"),
    Item("6b", "who was eligible", "eligibility"),
    Item("6c", "treatments received"),
    Item("7", "preparation of data, and whether alike in all groups", "preparation"),
    Item("8a", "the outcome, when and how assessed", "outcome"),
    Item("8b", "who assessed a judged outcome"),
    Item("8c", "blinding of the assessment of the outcome"),
    Item("9a", "which predictors were chosen", "predictors"),
    Item("9b", "predictors, when and how measured", "predictors"),
    Item("9c", "who measured judged predictors"),
    Item("10", "how the sample size was found", "sample_size"),
    Item("11", "what was done about missing data", "missing"),
    Item("12a", "how data were used: development, evaluation", "partition"),
    Item("12b", "how predictors were handled", "preparation"),
    Item("12c", "type of model, how it was built and tuned", "training"),
    Item("12d", "differences between clusters (hospitals, devices)", "sites"),
    Item("12e", "measures of performance and how they were estimated", "metrics"),
    Item("12f", "updating of the model"),
    Item("12g", "how predictions were calculated in the evaluation", "prediction"),
    Item("13", "what was done about class imbalance", "imbalance"),
    Item("14", "what was done for fairness", "fairness"),
    Item("15", "output of the model and thresholds", "thresholds"),
    Item("16", "differences between development and evaluation data", "partition"),
    Item("17", "approval of an ethics committee, consent"),
    Item("18a", "funding"),
    Item("18b", "conflicts of interest"),
    Item("18c", "where the protocol is"),
    Item("18d", "registration"),
    Item("18e", "who can have the data"),
    Item("18f", "who can have the code", "code"),
    Item("19", "patients and public in the study"),
    Item("20a", "flow of participants", "flow"),
    Item("20b", "characteristics of the participants", "table_one"),
    Item("20c", "how evaluation data differ from development data in important predictors", "table_one"),
    Item("21", "participants and outcome events in each analysis", "events"),
    Item("22", "the full model, so that others can use it", "model"),
    Item("23a", "performance with intervals, also in subgroups", "performance"),
    Item("23b", "heterogeneity between clusters", "sites"),
    Item("24", "results of an update"),
    Item("25", "interpretation"),
    Item("26", "limitations", "limits"),
    Item("27a", "how poor or missing input is handled in use", "bad_input"),
    Item("27b", "what users must do and know"),
    Item("27c", "next steps"),
)

CLAIM = (
    Item("1", "title or abstract name the AI method"),
    Item("2", "structured abstract"),
    Item("3", "background, clinical role"),
    Item("4", "aims and hypotheses", "aims"),
    Item("5", "prospective or retrospective"),
    Item("6", "goal of the study", "aims"),
    Item("7", "sources of the data", "sources"),
    Item("8", "eligibility: how, where, when", "eligibility"),
    Item("9", "preprocessing", "preparation"),
    Item("10", "selection of parts of the data", "eligibility"),
    Item("11", "definitions of the data elements", "outcome"),
    Item("12", "de-identification", "deidentified"),
    Item("13", "missing data", "missing"),
    Item("14", "definition of the reference standard", "outcome"),
    Item("15", "why this reference standard"),
    Item("16", "who annotated, with which training"),
    Item("17", "tools of annotation"),
    Item("18", "variability within and between readers"),
    Item("19", "sample size and how it was found", "sample_size"),
    Item("20", "how data were partitioned", "partition"),
    Item("21", "level at which partitions are disjoint", "disjoint"),
    Item("22", "the model in detail", "model"),
    Item("23", "software, libraries, versions", "code"),
    Item("24", "initial parameters", "initialisation"),
    Item("25", "training: augmentation, hyperparameters, number of models", "training"),
    Item("26", "how the final model was chosen", "selection"),
    Item("27", "ensembles", "ensemble"),
    Item("28", "metrics of performance", "metrics"),
    Item("29", "uncertainty and significance", "uncertainty"),
    Item("30", "robustness, sensitivity analyses", "robustness"),
    Item("31", "explanations", "explanations"),
    Item("32", "external data", "sites"),
    Item("33", "flow of participants", "flow"),
    Item("34", "demographic and clinical characteristics by partition", "table_one"),
    Item("35", "performance of the best models on all partitions", "performance"),
    Item("36", "estimates with their precision", "performance"),
    Item("37", "analysis of failures", "failures"),
    Item("38", "limitations", "limits"),
    Item("39", "meaning for practice"),
    Item("40", "registration"),
    Item("41", "access to protocol and code", "code"),
    Item("42", "funding"),
)


def filled(name: str, title: str, items: Sequence[Item], answers: Mapping[str, str | None]) -> Sheet:
    """The checklist with what the record knows. KeyError on a topic that nobody answers: a misspelt one must not look like missing data."""
    rows = [(item.number, item.asks, *_answer(item, answers)) for item in items]
    return Sheet(name, title, ("item", "asks for", "state", "from the record"), rows)


def _answer(item: Item, answers: Mapping[str, str | None]) -> tuple[str, str]:
    if item.topic is None:
        return "open", FOR_THE_AUTHORS
    answer = answers[item.topic]
    return ("open", NOT_RECORDED) if answer is None else ("check", answer)


def markdown(sheet: Sheet, note: str) -> str:
    """The sheet as a Markdown table under its title."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in sheet.rows]
    head = "| " + " | ".join(sheet.columns) + " |"
    return "\n".join(
        [f"# {sheet.caption}", "", note, "", head, "|---" * len(sheet.columns) + "|", *lines, ""]
    )
