"""`twistd notifier` from a wheel, from an editable install and uninstalled, each in a virtual environment."""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("notifier", "clients", "webapp", "twisted", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
NAME = "Real-time notification server"


@dataclass(frozen=True)
class Place:
    """A virtual environment, the folder that its programs run in and what they find in their environment."""

    venv: Path
    cwd: Path
    environ: Mapping[str, str]

    @property
    def packages(self) -> Path:
        return next(self.venv.glob("lib/python*/site-packages"))

    def run(self, program: str, *arguments: str | Path) -> str:
        """What a program of the environment prints; fails the test when it does not end with 0."""
        done = subprocess.run(
            [self.venv / "bin" / program, *arguments],
            cwd=self.cwd,
            env={**_environ(), **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: status {done.returncode}\n{done.stdout}"
        return done.stdout

    def pip(self, *arguments: str | Path) -> str:
        """What `pip` prints."""
        return self.run("python", "-m", "pip", "--disable-pip-version-check", *arguments)


def _environ() -> dict[str, str]:
    # What the tests' own environment adds to the path would hide a package that is not found.
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what an install needs: building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    left_over = shutil.ignore_patterns("__pycache__", "*.egg-info", "dropin.cache")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=left_over, symlinks=True)
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with all that setup.cfg requires, and what builds; installed once."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    folder = tmp_path_factory.mktemp("dependencies")
    place = Place(folder / "venv", folder, {})
    subprocess.run([sys.executable, "-m", "venv", place.venv], check=True)
    place.pip("install", "--quiet", "setuptools>=68", "wheel", *required)
    return place


def another(full: Place, folder: Path) -> Place:
    """A new environment with the same packages (hard links) and a `twistd` of its own."""
    place = Place(folder / "venv", folder, {})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place.venv], check=True)
    compiled = shutil.ignore_patterns("dropin.cache")
    shutil.copytree(full.packages, place.packages, copy_function=os.link, dirs_exist_ok=True, ignore=compiled)
    twistd = (full.venv / "bin/twistd").read_text(encoding="utf-8")
    (place.venv / "bin/twistd").write_text(twistd.replace(str(full.venv), str(place.venv)), encoding="utf-8")
    (place.venv / "bin/twistd").chmod(0o755)
    return place


@pytest.fixture(scope="session")
def wheel(dependencies: Place, checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    dependencies.pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, checkout)
    return next(folder.glob("notifier-*.whl"))


@pytest.fixture(scope="session", params=["wheel", "editable", "uninstalled"])
def place(
    request: pytest.FixtureRequest,
    dependencies: Place,
    checkout: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Place:
    """One environment for each of the three ways."""
    made = another(dependencies, tmp_path_factory.mktemp(request.param))
    if request.param == "uninstalled":
        return Place(made.venv, checkout, {"PYTHONPATH": "."})
    if request.param == "wheel":
        made.pip("install", "--quiet", "--no-deps", request.getfixturevalue("wheel"))
    else:
        made.pip("install", "--quiet", "--no-deps", "--no-build-isolation", "-e", checkout)
    return made


def test_a_cold_start_works_with_another_reactor(place: Place) -> None:
    """The plugin file imports no reactor: while twistd writes its plugin cache none may be installed."""
    for cache in place.venv.rglob("dropin.cache"):
        cache.unlink()
    assert "--config" in place.run("twistd", "--reactor=asyncio", "notifier", "--help")


def test_twistd_lists_it(place: Place) -> None:
    listed = [line.split(maxsplit=1) for line in place.run("twistd", "--help").splitlines()]
    assert ["notifier", NAME] in listed


def test_twistd_shows_its_options(place: Place) -> None:
    assert "--config" in place.run("twistd", "notifier", "--help")


def test_twistd_keeps_its_own_plugins(place: Place) -> None:
    listed = {line.split()[0] for line in place.run("twistd", "--help").splitlines() if line.strip()}
    assert {"web", "dns"} <= listed


def test_the_installed_files_are_found(place: Place) -> None:
    """What is no Python file is read beside the modules: in all three ways it must be there."""
    code = (
        "from importlib.resources import files; import notifier; print(notifier.__version__);"
        "n = files('notifier');"
        "print(n.joinpath('py.typed').is_file());"
        "print(any(f.name.endswith('.lua') for f in n.joinpath('edge/lua').iterdir()))"
    )
    assert place.run("python", "-c", code).split() == ["0.1.0", "True", "True"]


def test_the_page_has_the_client_of_the_checkout(place: Place) -> None:
    """There is one notifier.js: in the checkout a link leads to it, a wheel holds the file itself."""
    code = (
        "import hashlib; from importlib.resources import files;"
        "from notifier.cli.page_server import FILES;"
        "n = files('notifier.cli') / 'page'; print(all((n / f).is_file() for f, _ in FILES.values()));"
        "print(hashlib.sha256((n / 'notifier.js').read_bytes()).hexdigest())"
    )
    client = (ROOT / "clients/js/notifier.js").read_bytes()
    assert place.run("python", "-c", code).split() == ["True", hashlib.sha256(client).hexdigest()]


def test_the_wheel_links_to_nothing(wheel: Path) -> None:
    kinds = {stat.S_IFMT(entry.external_attr >> 16) for entry in zipfile.ZipFile(wheel).infolist()}
    assert kinds <= {0, stat.S_IFREG}


def test_a_source_distribution_holds_the_client_itself(
    dependencies: Place, checkout: Path, tmp_path: Path
) -> None:
    """Outside a checkout a link would lead nowhere."""
    code = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
    Place(dependencies.venv, checkout, {}).run("python", "-c", code, tmp_path)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        found = {
            entry.name.partition("/")[2]: entry
            for entry in archive
            if entry.name.endswith("/page/notifier.js")
        }
        assert found.keys() == {"notifier/cli/page/notifier.js", "webapp/page/notifier.js"}
        assert all(entry.isreg() for entry in found.values())


def test_the_wheel_holds_what_is_in_the_checkout(wheel: Path, checkout: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = [checkout / name for name in ("notifier", "webapp", "twisted")]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    wanted = {str(file.relative_to(checkout)) for file in files if "__pycache__" not in file.parts}
    assert packed == {name for name in wanted if not name.endswith("dropin.cache")}


def test_the_wheel_brings_nothing_of_twisted_itself(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("twisted/")]
    assert names == ["twisted/plugins/notifier_plugin.py"]


def test_the_command_works(dependencies: Place, wheel: Path, tmp_path: Path) -> None:
    made = another(dependencies, tmp_path)
    made.pip("install", "--quiet", "--no-deps", wheel)
    assert "demo" in made.run("notifier", "--help")


def test_uninstalling_leaves_twisted_whole(dependencies: Place, wheel: Path, tmp_path: Path) -> None:
    made = another(dependencies, tmp_path)
    made.pip("install", "--quiet", "--no-deps", wheel)
    made.pip("uninstall", "--quiet", "--yes", "notifier")
    assert not (made.packages / "twisted/plugins/notifier_plugin.py").exists()
    assert NAME not in made.run("twistd", "--help")
    made.run("python", "-c", "import twisted.internet.reactor, twisted.plugins.twisted_core")
