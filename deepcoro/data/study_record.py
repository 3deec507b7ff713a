"""From encoded films to the record of their study: what shards and inference know of it, and nothing else of a header or a row."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from deepcoro.angiography.vocabulary import view_of
from deepcoro.data.member import Member
from deepcoro.data.sharding import Settings
from deepcoro.ingest.film import Film, FilmSource, StudySource
from deepcoro.ingest.positioner import pair_planes
from deepcoro.sample import ClipRecord, Report, Scope, StudyRecord


class EncodedFilm(NamedTuple):
    """A film that is ready to be stored or shown to a model."""

    source: FilmSource
    film: Film
    member: Member


def in_order(films: list[EncodedFilm]) -> list[EncodedFilm]:
    """By acquisition where all headers tell it, else as given."""
    if any(each.film.order is None for each in films):
        return films
    return sorted(films, key=lambda each: each.film.order or ())


def study_record(study: StudySource, films: Sequence[EncodedFilm], settings: Settings) -> StudyRecord:
    """All that will be known of the study: every field is named here, nothing else of a header or a row passes."""
    extension = settings.encoding.extension
    partners = pair_planes([each.film.plane for each in films])
    clips = [_clip(each, f"{number:03d}.{extension}", partners[number]) for number, each in enumerate(films)]
    return StudyRecord(
        study=study.study,
        patient=study.patient,
        clips=clips,
        reports=list(_reports(films, settings.report_scope)),
    )


def _clip(encoded: EncodedFilm, member: str, partner: int | None) -> ClipRecord:
    source, film, stored = encoded
    primary = _first_known(source.primary_angle_deg, film.primary_angle_deg)
    secondary = _first_known(source.secondary_angle_deg, film.secondary_angle_deg)
    known = primary is not None and secondary is not None and not film.rotation_deg
    fps, fps_source = film.frame_rate_fps, film.frame_rate_source
    if fps is None and source.frame_rate_fps is not None:
        fps, fps_source = source.frame_rate_fps, "table"
    return ClipRecord(
        clip=source.clip,
        member=member,
        frame_offsets=stored.frame_offsets,
        height=stored.height,
        width=stored.width,
        channels=stored.channels,
        frame_rate_fps=fps,
        frame_rate_source=fps_source,
        side=source.side,
        view=source.view or (view_of(primary, secondary) if known else None),
        primary_angle_deg=primary,
        secondary_angle_deg=secondary,
        rotation_deg=film.rotation_deg,
        source_to_detector_mm=film.source_to_detector_mm,
        source_to_patient_mm=film.source_to_patient_mm,
        imager_pixel_spacing_mm=_stored_spacing(film, stored),
        biplane=film.plane.name if film.plane else None,
        biplane_pair=partner,
        grey_scale=film.grey_scale,
        labels=dict(source.labels),
    )


def _stored_spacing(film: Film, stored: Member) -> float | None:
    """Pixels that were merged to store the film are larger in proportion."""
    if film.imager_pixel_spacing_mm is None or film.height is None:
        return None
    return round(film.imager_pixel_spacing_mm * film.height / stored.height, 6)


def _first_known(table: float | None, header: float | None) -> float | None:
    return header if table is None else table


def _reports(films: Sequence[EncodedFilm], scope: Scope) -> Iterator[Report]:
    """Texts of one scope, each once. A film whose tree is not known keeps its text to itself under scope `side`."""
    seen = set()
    for clip, each in enumerate(films):
        text, side = each.source.text, each.source.side
        if text is None:
            continue
        if scope == "clip" or (scope == "side" and side is None):
            yield Report(scope="clip", text=text, clip=clip)
        elif (key := side if scope == "side" else None) not in seen:
            seen.add(key)
            yield Report(scope=scope, text=text, side=key)
