#!/usr/bin/env python3
"""An endpoint that answers for uploaded studies; needs the extra `serve`."""

import argparse
import logging
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed

# What loads torch is imported where it is used: the processes that decode films import this file too.
from deepcoro.config import ConfigError  # noqa: E402
from deepcoro.inference.arguments import add_certainty, add_film_arguments, add_model_arguments  # noqa: E402
from deepcoro.tool import exit_code  # noqa: E402

EXAMPLES = """\
examples:
  python tools/serve.py --checkpoint runs/mine --token_file token
  curl -H "Authorization: Bearer $(cat token)" -F file=@a.dcm -F file=@b.dcm http://127.0.0.1:8000/studies

docs/inference.md says what it takes and gives. Research only; not a medical device.

exit codes: 0 stopped (Ctrl-C, SIGTERM: a study under way is answered first), 2 the command is at fault (one line says how), 1 a bug.
"""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8000, help="default: 8000")
    token = (
        "file with the token that every request must carry; without one anybody who reaches the port may ask"
    )
    add("--token_file", type=Path, metavar="FILE", help=token)
    add("--max_upload_mb", type=int, default=4096, help="largest request (default: 4096)")
    add("--max_files", type=int, default=400, help="most files of a request (default: 400)")
    add(
        "--max_waiting",
        type=int,
        default=4,
        help="requests that may wait or still send; others get 503 (default: 4)",
    )
    add(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="where uploads lie while they are read (default: the system's)",
    )
    add("--audit", type=Path, metavar="FILE", help="audit log, a line an answer")
    add_model_arguments(parser)
    add_certainty(parser)
    add_film_arguments(parser)
    return parser.parse_args(words)


def run(options: argparse.Namespace) -> None:
    from deepcoro.inference.opened import FilmOpener, settings_of

    settings = settings_of(options.workers, options.modality, options.accept_burned_in, options.echo_mask)
    with FilmOpener(settings) as opener:
        serve(options, opener)


def serve(options: argparse.Namespace, opener: object) -> None:
    try:
        import uvicorn

        from deepcoro.inference.service import Limits, Service, make_app
    except ImportError as error:
        raise ConfigError(
            f"the endpoint needs {error.name}: pip install 'deepcoro[serve]'", topic="missing-packages"
        ) from error
    from deepcoro.inference.audit import AuditLog
    from deepcoro.inference.model import Answerer
    from deepcoro.ingest.identity import load_identity

    # uvicorn closes on SIGTERM and then raises it once more for whoever stood here before: the processes that decode end with this one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    limits = Limits(options.max_upload_mb << 20, options.max_files, options.max_waiting)
    service = Service(
        Answerer(options.checkpoint, options.load, options.device, options.certainty),
        opener,
        load_identity(options.key_file),
        limits,
        options.scratch,
        AuditLog(options.audit) if options.audit else None,
    )
    uvicorn.run(make_app(service, token_of(options.token_file)), host=options.host, port=options.port)


def token_of(file: Path | None) -> str | None:
    if file is None:
        return None
    token = file.read_text().strip()
    if len(token) < 16:
        raise ConfigError(
            f"the token has {len(token)} letters; give one of 16 or more (openssl rand -hex 32)"
        )
    return token


def main() -> int:
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    return exit_code("serve", lambda: run(options), options.debug)


if __name__ == "__main__":
    sys.exit(main())
