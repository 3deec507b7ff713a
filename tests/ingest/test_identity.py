"""Keyed ids."""

import hashlib
import logging
import stat

import pytest

from deepcoro.angiography.demo_key import demo_key
from deepcoro.config import ConfigError
from deepcoro.ingest.identity import Identity, load_identity

KEY = b"0123456789abcdef0123456789abcdef"


def test_ids_depend_on_key_kind_and_original_and_are_no_plain_hash():
    identity = Identity(KEY)
    assert identity.keyed("patient", "7") == identity.keyed("patient", "7")
    others = {
        identity.keyed("study", "7"),
        identity.keyed("patient", "8"),
        Identity(KEY[::-1]).keyed("patient", "7"),
        hashlib.sha256(b"patient:7").hexdigest()[:16],
        hashlib.md5(b"7").hexdigest()[:16],
    }
    assert len(others) == 5 and identity.keyed("patient", "7") not in others
    assert len(identity.keyed("patient", "7")) == 16


def test_a_patient_is_one_however_a_program_spells_the_number_or_the_accent():
    """A gap in a column of numbers makes pandas write all of them with `.0`: next month's table, without a gap, does not."""
    identity = Identity(KEY)
    for kind in ("patient", "study"):
        assert identity.keyed(kind, "7734501.0") == identity.keyed(kind, "7734501")
        assert identity.keyed(kind, "Be\u0301langer") == identity.keyed(kind, "B\u00e9langer")
        assert (
            len({identity.keyed(kind, each) for each in ("1.2", "1.2.0", "7.05", "7", "MRN7.0", "MRN7")}) == 6
        )
    assert identity.keyed("clip", "7.0") != identity.keyed("clip", "7"), "a file name is what it is"


def test_fractions_are_even():
    drawn = [Identity(KEY).fraction("split", str(number)) for number in range(2000)]
    assert all(0 <= each < 1 for each in drawn)
    assert sum(each < 0.8 for each in drawn) / 2000 == pytest.approx(0.8, abs=0.03)


def test_the_key_file_given_wins_over_the_environment(tmp_path):
    (tmp_path / "a.key").write_bytes(KEY)
    (tmp_path / "b.key").write_bytes(KEY[::-1] + b"\n")
    environment = {"DEEPCORO_KEY_FILE": str(tmp_path / "b.key")}
    assert load_identity(tmp_path / "a.key", environment).keyed("x", "1") == Identity(KEY).keyed("x", "1")
    assert load_identity(None, environment).keyed("x", "1") == Identity(KEY[::-1]).keyed("x", "1")


def test_only_the_users_own_key_is_made_and_only_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = load_identity(None, {}).keyed("patient", "7")
    key = tmp_path / ".config" / "deepcoro" / "id.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and list(key.parent.iterdir()) == [key]
    assert load_identity(None, {}).keyed("patient", "7") == first
    with pytest.raises(ConfigError, match="cannot be read"):
        load_identity(tmp_path / "gone.key", {})


def test_a_short_key_is_refused(tmp_path):
    (tmp_path / "a.key").write_bytes(b"secret\n")
    with pytest.raises(ConfigError, match="6 bytes"):
        load_identity(tmp_path / "a.key", {})


def test_a_key_inside_the_output_folder_is_refused(tmp_path):
    output = tmp_path / "shards"
    output.mkdir()
    (output / "id.key").write_bytes(KEY)
    (tmp_path / "link.key").symlink_to(output / "id.key")
    for key in (output / "id.key", tmp_path / "link.key"):
        with pytest.raises(ConfigError, match="inside the output folder"):
            load_identity(key, {}, output=output)
    with pytest.raises(ConfigError, match="inside the output folder"):
        load_identity(None, {"DEEPCORO_KEY_FILE": str(output / "id.key")}, output=output)


def test_the_users_own_key_inside_the_output_folder_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="inside the output folder"):
        load_identity(None, {}, output=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_key_that_others_can_read_is_told_with_the_remedy_and_the_key_in_use_is_named(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    key = tmp_path / "a.key"
    key.write_bytes(KEY)
    key.chmod(0o644)
    load_identity(key, {})
    assert (
        "chmod 600 it" in caplog.text
        and "mode 644" in caplog.text
        and f"ids are keyed with {key}" in caplog.text
    )
    assert KEY.decode() not in caplog.text
    caplog.clear()
    key.chmod(0o600)
    load_identity(key, {})
    assert "chmod" not in caplog.text


def test_generated_films_take_the_public_key_beside_them_and_say_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "demo.key").write_text(demo_key() + "\n")
    load_identity(None, {}, data)  # no recipe: not generated
    assert (tmp_path / "home" / ".config").exists() and "PUBLIC" not in caplog.text
    (data / "recipe.json").write_text("{}")
    generated = load_identity(None, {}, data)
    assert generated.keyed("patient", "7") == Identity(demo_key().encode()).keyed("patient", "7")
    assert "PUBLIC key of generated films" in caplog.text
    own = tmp_path / "own.key"
    own.write_bytes(KEY)
    for given in (load_identity(own, {}, data), load_identity(None, {"DEEPCORO_KEY_FILE": str(own)}, data)):
        assert given.keyed("patient", "7") == Identity(KEY).keyed("patient", "7")
