"""Keyed ids: the same patient always gets the same id, and nobody without the key can find out which patient it is."""

import hmac
import logging
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from deepcoro.angiography.demo_key import demo_key
from deepcoro.config import ConfigError

logger = logging.getLogger(__name__)

KEY_FILE_VARIABLE = "DEEPCORO_KEY_FILE"
_SHORTEST_KEY = 16
_RECIPE, _DEMO_KEY = "recipe.json", "demo.key"  # what make_demo_data leaves beside its table
_WHOLE_NUMBER = re.compile(r"(\d+)\.0+")


class Identity:
    """HMAC-SHA256 of ids under a secret. An unkeyed hash of a medical record number is found by trying all numbers."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _SHORTEST_KEY:
            raise ConfigError(
                f"the id key has {len(secret)} bytes; {_SHORTEST_KEY} or more are needed", topic="keys-of-ids"
            )
        self._secret = secret

    def keyed(self, kind: str, original: str) -> str:
        """16 hexadecimal digits; `kind` (patient, study, clip) keeps equal originals of different kinds apart.

        A patient or study `7734501.0` is `7734501`: a program that fills a gap in a column of numbers writes all of them so,
        and next month's table, without a gap, would make another patient of them.
        """
        return self._digest(kind, original if kind == "clip" else _one_spelling(original))[:16]

    def fraction(self, kind: str, original: str) -> float:
        """A number in [0, 1) that is a function of the original: what draws splits."""
        return int(self._digest(kind, original)[:13], 16) / 16**13

    @property
    def check(self) -> str:
        """Equal for equal secrets and tells nothing about them: shows that two tables were keyed alike."""
        return self.keyed("key", "check")

    def _digest(self, kind: str, original: str) -> str:
        return hmac.new(self._secret, f"{kind}:{original}".encode(), "sha256").hexdigest()


def _one_spelling(original: str) -> str:
    composed = unicodedata.normalize("NFC", original)
    number = _WHOLE_NUMBER.fullmatch(composed)
    return number[1] if number else composed


def load_identity(
    key_file: Path | None,
    environment: Mapping[str, str] = os.environ,
    table_folder: Path | None = None,
    output: Path | None = None,
) -> Identity:
    """The key of `key_file`, else of the file that DEEPCORO_KEY_FILE names, else the public one of generated data when the
    table lies in such a folder, else `~/.config/deepcoro/id.key`.

    Only the last is made when it is absent (mode 0600): a key that was asked for and is not there would silently give
    every patient a new id. ConfigError when the key lies in `output`, which is shared.
    """
    path = _key_path(key_file, environment, table_folder)
    if output is not None and path.resolve().is_relative_to(output.resolve()):
        raise ConfigError(
            f"the id key {path} lies inside the output folder, where whoever reads the shards would find it; move it elsewhere",
            topic="keys-of-ids",
        )
    if path == _users_own():
        _make_key(path)
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"the id key file {path} cannot be read; give --key_file FILE, or make one with"
            f" '(umask 077; openssl rand -hex 32 > FILE)'",
            topic="keys-of-ids",
        ) from error
    if secret == demo_key().encode():
        logger.warning(
            "ids are keyed with %s, the PUBLIC key of generated films: they hide nobody; never use it for patients",
            path,
        )
    else:
        _warn_of_readers(path)
        logger.info("ids are keyed with %s: keep it, and keep it apart from the shards", path)
    return Identity(secret)


def _users_own() -> Path:
    return Path.home() / ".config" / "deepcoro" / "id.key"


def _key_path(key_file: Path | None, environment: Mapping[str, str], table_folder: Path | None) -> Path:
    if key_file is not None:
        return key_file
    if environment.get(KEY_FILE_VARIABLE):
        return Path(environment[KEY_FILE_VARIABLE])
    if table_folder is not None and _is_generated(table_folder) and (table_folder / _DEMO_KEY).is_file():
        return table_folder / _DEMO_KEY
    return _users_own()


def _is_generated(table_folder: Path) -> bool:
    return (table_folder / _RECIPE).is_file()


def _warn_of_readers(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning(
            "the id key %s can be read by others (mode %o), who could find the patients again: chmod 600 it",
            path,
            mode,
        )


def _make_key(path: Path) -> None:
    """Makes the key unless it exists; two processes that start together end up with one key."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as stream:
        stream.write(secrets.token_hex(32) + "\n")
    try:
        path.hardlink_to(fresh)
        logger.warning("made a new id key: %s", path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
