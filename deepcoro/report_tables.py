"""Flat metrics turned into what a reader meets: headline cards, table rows, plain words, warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from deepcoro.numerals import Show, fraction, is_missing, number, percent, place
from deepcoro.report_intervals import Measure

Results = Mapping[str, float]

TASK_WORDS = {
    "side": "Right or left coronary artery",
    "dominance": "Left or right dominance",
    "cto": "Chronic total occlusion",
}

Positives = Mapping[str, str]
"""Zero-shot task -> class that a high score speaks for."""

_FEW_PATIENTS = 30
_OWN_TABLES = (
    "retrieval/",
    "zero_shot/",
    "by/",
    "captioning/",
    "clinical_findings/",
    "alignment_uniformity/",
)
BASELINES = {"_first_frame": "First frame only", "_metadata": "No film: metadata"}
"""Suffix of a number -> what the same measure is with less to see (`tools/shortcuts.py`)."""
_SUFFIXES = ("_ci_low", "_ci_high", "_chance", *BASELINES)
OF_HEADS = ("/prevalence", "/mae_of_median", "/weighted_kappa", "/macro_f1")
"""Measures that nothing but a head has: all of its objective's numbers stand in the tables of heads."""
_SPACE = {
    "alignment": "distance of a film from its report, squared (alignment; lower is better)",
    "uniformity_films": "how evenly films fill the space (uniformity; lower is better, 0 = all alike)",
    "uniformity_texts": "how evenly reports fill it",
}


@dataclass(frozen=True)
class Row:
    """One measure of a table, ready to print."""

    label: str
    value: str
    interval: str
    chance: str
    control: str
    baselines: Mapping[str, str] = field(default_factory=dict)
    """What the same measure is with less to see, by the words of `BASELINES`."""


@dataclass(frozen=True)
class Table:
    """Rows under a heading and what their numbers count."""

    heading: str
    caption: str
    rows: list[Row]

    @property
    def baselines(self) -> list[str]:
        """Those that some row has."""
        return [words for words in BASELINES.values() if any(words in row.baselines for row in self.rows)]


@dataclass(frozen=True)
class Card:
    """One headline number and the sentence that explains it."""

    title: str
    value: str
    sentence: str
    interval: str
    chance: str
    verdict: str
    is_above_chance: bool
    chance_name: str = "Guessing"
    baselines: Mapping[str, str] = field(default_factory=dict)
    """As of a `Row`."""


def _range(low: float | None, high: float | None, show: Show) -> str:
    if is_missing(low) or is_missing(high):
        return "–"
    return f"{show(low).removesuffix(' %')} – {show(high)}"


def interval(results: Results, key: str, show: Show) -> str:
    """The 95 % interval of a value; a dash where there is none."""
    return _range(results.get(f"{key}_ci_low"), results.get(f"{key}_ci_high"), show)


def recalls(results: Results, name: str) -> list[int]:
    """The k of the R@k that were computed under `retrieval/{name}/`."""
    start = f"retrieval/{name}/R@"
    ends = [key.removeprefix(start) for key in results if key.startswith(start)]
    return sorted(int(end) for end in ends if end.isdigit())


def tasks(results: Results) -> list[str]:
    """Zero-shot tasks that were put, with or without an AUROC."""
    parts = [key.split("/") for key in results if key.startswith("zero_shot/")]
    return list(dict.fromkeys(part[1] for part in parts if len(part) == 3 and part[1] != "control"))


def positive_word(task: str, positives: Positives) -> str:
    """The positive class as a word: "right" is one, "1" is not."""
    word = positives.get(task, "")
    return word if word.isalpha() else "positive"


def tables(results: Results, strata: Sequence[str], positives: Positives) -> list[Table]:
    """Every table that has rows."""
    agree = "that agree on " + ", ".join(strata) if strata else "of the same stratum"
    made = [
        _retrieval_table(results, "text_to_video", "A report searches the films", "films"),
        _retrieval_table(results, "text_to_video/within_stratum", f"… only among films {agree}", "films"),
        _retrieval_table(results, "video_to_text", "A film searches the reports", "reports"),
        _retrieval_table(
            results, "video_to_text/within_stratum", f"… only among reports of films {agree}", "reports"
        ),
        _zero_shot_table(results, positives),
        _space_table(results),
        _other_table(results),
    ]
    return [table for table in made if table.rows]


def base_of(key: str) -> str:
    """The number that a baseline stands beside."""
    return next((key.removesuffix(suffix) for suffix in BASELINES if key.endswith(suffix)), key)


def _retrieval_table(results: Results, name: str, heading: str, found: str) -> Table:
    key = f"retrieval/{name}"
    control = f"retrieval/control/{name}"
    rows = [
        _row(results, f"{key}/R@{k}", f"found among the first {k} (R@{k})", f"{control}/R@{k}", percent)
        for k in recalls(results, name)
    ]
    if f"{key}/MRR" in results:
        rows.append(
            _row(
                results,
                f"{key}/MRR",
                "mean of 1 / place of the first match (MRR)",
                f"{control}/MRR",
                fraction,
            )
        )
    if f"{key}/median_rank" in results:
        rows.append(
            _row(
                results,
                f"{key}/median_rank",
                "median place of the first match",
                f"{control}/median_rank",
                place,
            )
        )
    searched = results.get("retrieval/num_films" if found == "films" else "retrieval/num_distinct_reports")
    searches = results.get(f"{key}/num_queries")
    within = "" if name.endswith("within_stratum") else f" in {number(searched)} {found}"
    return Table(heading, f"{number(searches)} searches{within}", rows)


def _zero_shot_table(results: Results, positives: Positives) -> Table:
    rows = []
    for task in tasks(results):
        counts = [
            results.get(f"zero_shot/{task}/{name}") for name in ("num", "num_positive", "num_not_assessed")
        ]
        films, positive, missing = (number(count) for count in counts)
        word = positive_word(task, positives)
        label = f"{TASK_WORDS.get(task, task)} — {films} films, {positive} {word}, {missing} not assessed"
        row = _row(results, f"zero_shot/{task}/auroc", label, f"zero_shot/control/{task}/auroc", fraction)
        rows.append(replace(row, chance="0.50"))
    return Table("Findings without training on them (zero-shot AUROC)", "per film, patients resampled", rows)


def _space_table(results: Results) -> Table:
    prefix = "alignment_uniformity/"
    rows = [
        Row(
            label,
            number(results[prefix + key]),
            interval(results, prefix + key, number),
            "–",
            number(results.get(f"{prefix}{key}_shuffled")),
            baselines_of(results, prefix + key, number),
        )
        for key, label in _SPACE.items()
        if prefix + key in results
    ]
    return Table("Shape of the space that films and reports share", "", rows)


def _other_table(results: Results) -> Table:
    hidden = (*_OWN_TABLES, "speed/", "memory/")
    shown = {key.split("/")[0] for key in results if key.endswith(OF_HEADS)} | {"survival"}
    names = [
        key
        for key in results
        if not key.startswith(hidden) and not key.endswith(_SUFFIXES) and key.split("/")[0] not in shown
    ]
    rows = [_row(results, name, name, f"{name}_control", number) for name in names]
    return Table("Other measures", "", rows)


def _row(results: Results, key: str, label: str, control: str, show: Show) -> Row:
    value, chance = results.get(key), results.get(f"{key}_chance")
    return Row(
        label=label,
        value=show(value),
        interval=_range(results.get(f"{key}_ci_low"), results.get(f"{key}_ci_high"), show),
        chance=show(chance),
        control=_range(results.get(f"{control}_ci_low"), results.get(f"{control}_ci_high"), show),
        baselines=baselines_of(results, key, show),
    )


def baselines_of(results: Results, key: str, show: Show) -> dict[str, str]:
    """What a number is with less to see, by the words of `BASELINES`."""
    values = {words: results.get(f"{key}{suffix}") for suffix, words in BASELINES.items()}
    return {words: show(value) for words, value in values.items() if not is_missing(value)}


def measures(results: Results, strata: Sequence[str]) -> list[Measure]:
    """The rows of the interval plot: every recall and every AUROC."""
    agree = f"same {', '.join(strata)}" if strata else "same stratum"
    words = {
        "text_to_video": "report → film",
        "text_to_video/within_stratum": f"report → film, {agree}",
        "video_to_text": "film → report",
        "video_to_text/within_stratum": f"film → report, {agree}",
    }
    rows = [
        _measure(results, f"retrieval/{name}/R@{k}", f"{word}: R@{k}", name)
        for name, word in words.items()
        for k in recalls(results, name)
    ]
    rows += [
        _measure(
            {f"zero_shot/{task}/auroc_chance": 0.5} | dict(results),
            f"zero_shot/{task}/auroc",
            f"{TASK_WORDS.get(task, task)}: AUROC",
            "zero_shot",
        )
        for task in tasks(results)
        if f"zero_shot/{task}/auroc" in results
    ]
    return rows


def _measure(results: Results, key: str, label: str, group: str) -> Measure:
    family, _, rest = key.partition("/")
    control = f"{family}/control/{rest}"
    return Measure(
        label=label,
        value=results[key],
        low=results.get(f"{key}_ci_low"),
        high=results.get(f"{key}_ci_high"),
        chance=results.get(f"{key}_chance"),
        control_low=results.get(f"{control}_ci_low"),
        control_high=results.get(f"{control}_ci_high"),
        group=group,
    )


def cards(results: Results, strata: Sequence[str], positives: Positives) -> list[Card]:
    """The numbers that a reader should see first."""
    made = [
        _recall_card(results, "text_to_video", "Report → film", "of the reports find a film of theirs"),
        _recall_card(
            results,
            "text_to_video/within_stratum",
            "Report → film, like with like",
            f"of the reports find a film of theirs among films with the same {', '.join(strata) or 'stratum'}",
        ),
        _recall_card(results, "video_to_text", "Film → report", "of the films find their report"),
    ]
    return [card for card in made if card] + [
        _auroc_card(results, task, positive_word(task, positives))
        for task in tasks(results)
        if f"zero_shot/{task}/auroc" in results
    ]


def _recall_card(results: Results, name: str, title: str, sentence: str) -> Card | None:
    known = recalls(results, name)
    if not known:
        return None
    k = 5 if 5 in known else known[0]
    key = f"retrieval/{name}/R@{k}"
    searched = results.get(
        "retrieval/num_films" if name.startswith("text") else "retrieval/num_distinct_reports"
    )
    among = "" if "within" in name else f" of {number(searched)}"
    return _card(results, key, title, f"{sentence} among the first {k}{among}", percent)


def _auroc_card(results: Results, task: str, word: str) -> Card:
    films, positive = (number(results.get(f"zero_shot/{task}/{name}")) for name in ("num", "num_positive"))
    sentence = f"AUROC without training on the label; {positive} of {films} films are {word}"
    key = f"zero_shot/{task}/auroc"
    return _card({f"{key}_chance": 0.5} | dict(results), key, TASK_WORDS.get(task, task), sentence, fraction)


def _card(results: Results, key: str, title: str, sentence: str, show: Show) -> Card:
    value, chance, low = results[key], results.get(f"{key}_chance"), results.get(f"{key}_ci_low")
    is_above = low is not None and chance is not None and low > chance
    if low is None or chance is None:
        verdict = "no interval"
    else:
        verdict = "better than guessing" if is_above else "not told apart from guessing"
    return Card(
        title=title,
        value=show(value),
        sentence=sentence,
        interval=_range(low, results.get(f"{key}_ci_high"), show),
        chance=show(chance),
        verdict=verdict,
        is_above_chance=is_above,
        baselines=baselines_of(results, key, show),
    )


def warnings(results: Results, are_patients_named: bool = True) -> list[str]:
    """What the numbers themselves say against trusting them. Films whose patient is not named count as patients of their own."""
    found = []
    patients = results.get("retrieval/num_patients")
    if patients is not None and patients < _FEW_PATIENTS:
        most = "Only" if are_patients_named else "At most"
        found.append(f"{most} {number(patients)} patients: intervals from so few are too narrow.")
    found += [
        f"The shuffled control of {key.removesuffix('_ci_low').removeprefix('retrieval/control/')} does not hold chance: "
        "the measure is at fault, do not use these numbers."
        for key in results
        if key.startswith("retrieval/control/")
        and key.endswith("_ci_low")
        and not _holds_chance(results, key)
    ]
    left_out = results.get("retrieval/num_films_without_report")
    if left_out:
        found.append(f"{number(left_out)} films without a report took no part in retrieval.")
    return found


def _holds_chance(results: Results, low_key: str) -> bool:
    key = low_key.removesuffix("_ci_low")
    chance = results.get(f"{key}_chance", 0.0)
    slack = 1e-9
    return results[low_key] - slack <= chance <= results.get(f"{key}_ci_high", 1.0) + slack
