"""What is done with a damaged input: the real ways in, from the file to what a run would keep of it."""

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))


def film(path: Path) -> str:
    """A film as the writer of shards takes it: opened, decoded, cleaned of burnt-in text, encoded."""
    from deepcoro.data.decode import make_film
    from deepcoro.data.manifest import Encoding
    from deepcoro.data.sharding import Settings
    from deepcoro.ingest.film import FilmSource, RejectedFilm

    outcome = make_film(FilmSource(row=1, path=path, clip="c"), Settings(encoding=Encoding(short_side_px=32)))
    if outcome.reason is not None:
        raise RejectedFilm(outcome.reason)
    return f"{outcome.member.num_frames} frames, rate {outcome.film.frame_rate_fps}"


def shards(path: Path) -> str:
    """A folder as a run reads it: manifest, indexes, splits, films.parquet, every record and every film."""
    from deepcoro.config import DataError
    from deepcoro.data.film_table import read_films
    from deepcoro.data.shards import Shards
    from deepcoro.fields import video

    opened = Shards.open(path)
    read_films(path)
    field = video.Config(frames=2, size_px=16).build()
    good, bad = 0, []
    for row in range(len(opened.studies)):
        for clip in range(int(opened.studies.num_clips[row])):
            try:
                field.decode(
                    opened.study(row), (clip,), lambda each, row=row: opened.read_clip(row, each), None
                )
                good += 1
            except DataError as error:
                bad.append(str(error))
    return f"{good} read; " + "; ".join(bad)


def table(path: Path) -> str:
    """A table as tools/shard_dataset.py takes it, its whole run included; its films lie in the folder above."""
    import shard_dataset

    return _sharded(shard_dataset, path, [])


def rules(path: Path) -> str:
    """Label rules beside a good table."""
    import shard_dataset

    return _sharded(shard_dataset, path.parent.parent / "good.csv", ["--label_rules", str(path)])


def _sharded(tool: object, path: Path, more: list[str]) -> str:
    folder = path.parent / "out"
    words = ["shard_dataset.py", "--csv", str(path), "--output", str(folder), "--workers", "1", *more]
    words += ["--key_file", str(path.parent / "id.key"), "--allow_constant_labels", "--short_side_px", "16"]
    (path.parent / "id.key").write_text("00" * 32)
    (path.parent / "id.key").chmod(0o600)
    sys.argv = words
    arguments = tool.parse_arguments()
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        tool.run(arguments)
    return shown.getvalue()
