"""What a run prints: every row of every table counted once, and how evenly the labels fell on the splits."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepcoro.data.film_table import read_films
from deepcoro.data.manifest import Manifest, RefusedRow, read_refused, read_splits
from deepcoro.data.notices import empty_splits, films_without_text, split_rule_told, windows_paths
from deepcoro.data.prevalence import Prevalence, Share, prevalences

SKIPPED = frozenset(
    {
        "already_sharded", "study_already_sharded", "duplicate_film", "unsupported_kind", "unsupported_format",
        "secondary_capture", "structured_report", "presentation_state", "waveform", "document", "biplane",
        "no_pixels", "single_frame", "withdrawn",
    }
)  # fmt: skip
"""Reasons of rows that are no film for this data set: of another kind, or there already. All other reasons are failures."""

_MOST_LABELS = 6


def reason_word(reason: str) -> str:
    return reason.split(":")[0]


def outcome(reason: str) -> str:
    """`skipped` or `failed`."""
    return "skipped" if reason_word(reason) in SKIPPED else "failed"


def summary_lines(
    manifest: Manifest, output: Path, num_rows: int, label_notes: Sequence[str] = ()
) -> list[str]:
    """The summary of a folder; `num_rows` are those of the table of this run. AssertionError when they are not all accounted for.

    `label_notes` say how its labels were read.
    """
    tables = manifest.tables
    if num_rows not in [entry.clips + entry.rejected_clips for entry in tables]:
        raise AssertionError(f"{num_rows} rows, but the tables of the manifest have others")
    counts = manifest.counts
    size_mb = sum(shard.bytes for shard in manifest.shards) / 1e6
    films, splits = read_films(output), {row.study: row.split for row in read_splits(output)}
    return [
        *_rows(manifest, read_refused(output)),
        f"studies  {counts.studies} of {counts.patients} patients (patient split {manifest.patient_split}, {manifest.split_rule})",
        *(
            f"         {name}: {split.studies} studies, {split.clips} films, {split.patients} patients"
            for name, split in counts.splits.items()
        ),
        f"         {split_rule_told(manifest)}",
        *(f"         {notice}" for notice in empty_splits(manifest)),
        f"frames   {counts.frames} in {len(manifest.shards)} shards, {size_mb:.1f} MB",
        f"pixels   mean {manifest.pixel_mean}, std {manifest.pixel_std} (training films)",
        *(f"texts    {notice}" for notice in films_without_text(films)),
        f"labels   {', '.join(manifest.label_columns) or 'none'}",
        *(f"         {note}" for note in label_notes),
        *_stratification(prevalences(films, splits, manifest.label_columns)),
        *_alike(manifest),
        f"written  {output}",
    ]


def _rows(manifest: Manifest, refused: Sequence[RefusedRow]) -> Iterator[str]:
    for number, entry in enumerate(manifest.tables, start=1):
        own = [row.reason for row in refused if row.table == number]
        kinds = Counter(outcome(reason) for reason in own)
        name = "rows     " if len(manifest.tables) == 1 else f"table {number:<3}"
        yield (
            f"{name}{entry.clips + entry.rejected_clips} = {entry.clips} sharded + {entry.rejected_clips} rejected"
            f" ({kinds['skipped']} skipped, {kinds['failed']} failed)"
        )
        for word, count in Counter(map(reason_word, own)).most_common():
            yield f"         {count} x {word} ({outcome(word)})"
        yield from (f"         {notice}" for notice in windows_paths(own))


def _stratification(found: Sequence[Prevalence]) -> Iterator[str]:
    """The first labels, and any whose share in one split is not what chance would give."""
    for number, each in enumerate(found):
        if number < _MOST_LABELS or each.uneven:
            shares = ", ".join(f"{split} {_of_assessed(share)}" for split, share in each.splits.items())
            note = f"  UNEVEN in {', '.join(each.uneven)}" if each.uneven else ""
            yield f"         {each.name}: {shares}{note}"


def _of_assessed(share: Share) -> str:
    return f"{100 * share.share:.1f} % of {share.assessed}" if share.assessed else "not assessed"


def _alike(manifest: Manifest) -> Iterator[str]:
    alike = manifest.duplicates
    if alike and (alike.inside_a_split or alike.across_splits):
        yield f"copies   {alike.inside_a_split} inside a split, {alike.across_splits} films across splits (accepted)"
