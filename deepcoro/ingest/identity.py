"""Keyed ids: the same patient always gets the same id, and nobody without the key can find out which patient it is."""

import hmac
import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from deepcoro.config import ConfigError

logger = logging.getLogger(__name__)

KEY_FILE_VARIABLE = "DEEPCORO_KEY_FILE"
_SHORTEST_KEY = 16


class Identity:
    """HMAC-SHA256 of ids under a secret. An unkeyed hash of a medical record number is found by trying all numbers."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < _SHORTEST_KEY:
            raise ConfigError(f"the id key has {len(secret)} bytes; {_SHORTEST_KEY} or more are needed")
        self._secret = secret

    def keyed(self, kind: str, original: str) -> str:
        """16 hexadecimal digits; `kind` (patient, study, clip) keeps equal originals of different kinds apart."""
        return self._digest(kind, original)[:16]

    def fraction(self, kind: str, original: str) -> float:
        """A number in [0, 1) that is a function of the original: what draws splits."""
        return int(self._digest(kind, original)[:13], 16) / 16**13

    def _digest(self, kind: str, original: str) -> str:
        return hmac.new(self._secret, f"{kind}:{original}".encode(), "sha256").hexdigest()


def load_identity(key_file: Path | None, environment: Mapping[str, str] = os.environ) -> Identity:
    """The key of `key_file`, else of the file that DEEPCORO_KEY_FILE names, else of `~/.config/deepcoro/id.key`.

    Only the last is made when it is absent (mode 0600): a key that was asked for and is not there would silently give
    every patient a new id.
    """
    named = key_file or (Path(environment[KEY_FILE_VARIABLE]) if environment.get(KEY_FILE_VARIABLE) else None)
    if named is None:
        named = Path.home() / ".config" / "deepcoro" / "id.key"
        _make_key(named)
    try:
        secret = named.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"the id key file {named} cannot be read; give --key_file FILE, or make one with"
            f" 'openssl rand -hex 32 > FILE'"
        ) from error
    logger.info("ids are keyed with %s: keep it, and keep it apart from the shards", named)
    return Identity(secret)


def _make_key(path: Path) -> None:
    """Makes the key unless it exists; two processes that start together end up with one key."""
    path.parent.mkdir(parents=True, exist_ok=True)
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
