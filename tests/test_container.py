"""The container's recipes, as far as a machine without an engine can hold them: their steps are run, their words are compared."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.copied import copy_tree
from tests.launch import ROOT

INSTALL = ROOT / "container" / "install.sh"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DEFINITION = (ROOT / "container" / "deepcoro.def").read_text()
AS_NOBODY = ("unshare", "--map-user=65534", "--map-group=65534")


def packed() -> list[str]:
    """Files and folders that .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in lines if line and line[0] != "#"][0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def steps(recipe: str) -> list[str]:
    return re.findall(r"container/install\.sh (\w+)", re.sub(r"^#.*\n", "", recipe, flags=re.MULTILINE))


def test_both_recipes_run_the_same_steps_of_one_script() -> None:
    docker = steps(DOCKERFILE)
    offered = re.search(r"^ {4}(\w+(?: \| \w+)+)\) \"\$step\"", INSTALL.read_text(), re.MULTILINE)
    assert docker == offered[1].split(" | ")
    assert steps(DEFINITION) == [step for step in docker if step != "user"]  # Apptainer's user is the caller


def test_both_recipes_take_the_same_base_and_extras_unless_told() -> None:
    told = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    arguments = DEFINITION.split("%arguments\n")[1].split("\n\n")[0]
    assert {name.upper(): value for name, value in re.findall(r"(\w+)=(\S+)", arguments)} == told


def test_the_image_starts_validate_site_as_a_user_without_rights() -> None:
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users == re.findall(r"useradd --uid (\d+)", INSTALL.read_text())
    assert 'ENTRYPOINT ["/usr/local/bin/validate_site"]' in DOCKERFILE
    assert 'exec /usr/local/bin/validate_site "$@"' in DEFINITION


def test_what_enters_an_image_is_named_and_is_the_same_for_both_engines() -> None:
    named = set(packed())
    files = DEFINITION.split("%files\n")[1].split("\n\n")[0]
    copied = [line.split() for line in files.splitlines() if not line.lstrip().startswith("#")]
    assert {source for source, _ in copied} == named
    assert all(target == f"/opt/deepcoro/{source}" for source, target in copied)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert named <= {path.split("/")[0] for path in tracked.splitlines()}


def test_the_devcontainer_builds_the_same_image_with_what_tests_need() -> None:
    folder = ROOT / ".devcontainer"
    told = json.loads((folder / "devcontainer.json").read_text())
    assert (folder / told["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (folder / told["build"]["context"]).resolve() == ROOT
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"test", "lint"} <= set(told["build"]["args"]["EXTRAS"].split(",")) <= offered.keys()
    assert told["remoteUser"] == re.search(r"useradd .* (\w+)$", INSTALL.read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("dependencies", "--extras", "timm,tim", "--venv"), "no extra is called ['tim']; there are ["),
        (("depend",), "step 'depend' is none of system, dependencies, place, user, check"),
        (("place", "--prefx", "x"), "unknown option --prefx"),
    ],
)
def test_a_mistyped_step_extra_or_option_is_named(words: tuple[str, ...], told: str) -> None:
    venv = (Path(sys.executable).parent.parent,) if words[-1] == "--venv" else ()
    answer = subprocess.run([INSTALL, *words, *venv], capture_output=True, text=True)
    assert answer.returncode != 0 and told in answer.stderr


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Path]:
    """What the recipes would copy, with a virtual environment of its own that finds this one's packages; nobody may write to it."""
    root = tmp_path / "image"
    copy_tree(root, packed())
    subprocess.run([sys.executable, "-m", "venv", root / ".venv"], check=True)
    [packages] = (root / ".venv" / "lib").glob("python*/site-packages")
    (packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield root
    subprocess.run(["chmod", "-R", "u+w", root], check=True)


@pytest.mark.slow
def test_the_recipes_steps_end_in_a_site_measured_without_network_or_rights(
    image: Path, tmp_path: Path
) -> None:
    allowed = subprocess.run([*AS_NOBODY, "unshare", "--map-current-user", "--net", "true"], text=True, capture_output=True)  # fmt: skip
    if allowed.returncode:
        pytest.skip(
            f"this machine gives no namespace without a network, so offline is not shown: {allowed.stderr}"
        )
    script, prefix = image / "container" / "install.sh", tmp_path / "prefix"
    subprocess.run([script, "dependencies", "--extras", "timm,serve"], check=True, timeout=900)
    subprocess.run([script, "place", "--prefix", prefix], check=True)
    assert {path.name for path in (prefix / "bin").iterdir()} == {"deepcoro", "validate_site"}
    subprocess.run(["chmod", "-R", "a-w", image], check=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    # a home that is not there, as an engine gives it to `--user`
    environment = os.environ | {"TMPDIR": str(scratch), "HOME": str(tmp_path / "none"), "OMP_NUM_THREADS": "1"}  # fmt: skip
    environment.pop("PYTHONPATH", None)
    checked = subprocess.run(
        [*AS_NOBODY, script, "check", "--prefix", prefix],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert checked.returncode == 0, checked.stderr[-2000:]
    assert checked.stdout.splitlines()[-1] == "install.sh: checked without a network, as user 65534"
    assert re.search(r"\d+ numbers of 10 patients", checked.stdout)
    assert not any(scratch.iterdir())  # neither films nor caches stay
