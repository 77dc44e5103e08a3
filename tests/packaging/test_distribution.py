"""The wheel: what is in it, and that an empty environment needs nothing else."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("pyrolvm-*.whl")
    return built


def test_the_wheel_holds_three_typed_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packages = {"pyrolvm", "pyrolvm_models", "pyrolvm_guides"}
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == packages
    assert {f"{package}/py.typed" for package in packages} <= set(names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    for folder, package in (("", "pyrolvm"), ("models/", "pyrolvm_models"), ("guides/", "pyrolvm_guides")):
        source = ROOT / folder / package
        modules = {f"{package}/{path.relative_to(source).as_posix()}" for path in source.rglob("*.py")}
        assert modules <= set(names)


def test_every_entry_point_of_the_wheel_is_a_function_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        points = configparser.ConfigParser(delimiters="=")
        points.optionxform = str  # type: ignore[assignment]
        points.read_string(archive.read(name).decode())
        assert points["console_scripts"]["pyrolvm"] == "pyrolvm.__main__:main"
        assert points["pyrolvm.models"] and points["pyrolvm.guides"]
        for group in ("pyrolvm.models", "pyrolvm.guides"):
            for target in points[group].values():
                module, _, function = target.partition(":")
                source = archive.read(module.replace(".", "/") + ".py").decode()
                assert f"def {function}(" in source, target


def test_an_index_shows_the_readme_with_links_and_pictures_that_lead_somewhere(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        shown = archive.read(name).decode().partition("\n\n")[2]
    links = re.findall(r"\]\(([^)\s]+)", shown)
    assert links and all(link.startswith(("https://", "#")) for link in links)
    inside = [link for link in links if "/pyrolvm/pyrolvm/" in link and ("blob" in link or "raw" in link)]
    assert any(link.endswith(".png") for link in inside) and any(".md" in link for link in inside)
    for link in inside:
        assert (ROOT / link.split("/main/")[1].partition("#")[0]).exists(), link


def test_the_versions_agree():
    import tomllib
    from importlib.metadata import version

    import pyrolvm

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert pyrolvm.__version__ == declared
    assert version("pyrolvm") == declared, "the checkout was installed before its version changed: make install-dev"
    assert f"\nversion: {declared}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"> Version {declared}." in (ROOT / "README.md").read_text()
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", declared]


def test_what_workflows_make_is_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    files = [*(ROOT / ".github" / "workflows").glob("*.yml"), ROOT / ".ci" / "run"]
    text = "\n".join(path.read_text() for path in files)
    (matrix,) = re.findall(r"target: \[(.+)\]", text)
    asked = {word for line in re.findall(r"\bmake ([a-z -]+)", text) for word in line.split()}
    assert asked | {word.strip() for word in matrix.split(",")} <= targets


def test_the_lowest_releases_are_those_that_pyproject_names():
    import tomllib
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("lowest", ROOT / ".ci" / "lowest.py")
    assert spec is not None and spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.lowest(["a>=1.2,<3", "b[x]>=2; python_version < '3'", "c", "d[y]>=4"]) == ["a==1.2", "c", "d[y]==4"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert all("==" in line for line in tool.lowest(project["dependencies"]))  # none is without a lower bound


def test_every_required_package_is_pinned_and_used():
    """A dependency nobody imports is a burden; an unpinned one is a surprise."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = (ROOT / "constraints.txt").read_text().lower()
    extras = [line for lines in project["optional-dependencies"].values() for line in lines if "pyrolvm[" not in line]
    names = {_name(line) for line in project["dependencies"]}
    for name in names | {_name(line) for line in extras}:
        assert f"\n{name}==" in pins, f"{name} is not in constraints.txt"
    sources = "\n".join(
        path.read_text() for folder in ("pyrolvm", "models", "guides") for path in (ROOT / folder).rglob("*.py")
    )
    # Used without being imported here: ArviZ is what results are opened with; xarray asks h5netcdf, and that h5py.
    indirect = {"arviz", "arviz-plots", "h5py", "h5netcdf"}
    module = {"pyro-ppl": "pyro", "scikit-learn": "sklearn"}
    for name in names - indirect:
        imported = module.get(name, name.replace("-", "_"))
        found = re.search(rf"^\s*(import|from) {imported}\b|import_module\(\"{imported}\b", sources, re.MULTILINE)
        assert found, f"{name} is imported nowhere"


def _name(requirement: str) -> str:
    return requirement.partition(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip().lower()


def _clean_environment() -> dict[str, str]:
    """The environment without anything that leads back to this working tree or its virtual environment."""
    drop = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    return {name: value for name, value in os.environ.items() if name not in drop and not name.startswith("COV_")}


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, env=_clean_environment())
    command = tmp_path / "env" / "bin" / "pyrolvm"
    subprocess.run([command, "doctor"], check=True, cwd=tmp_path, env=_clean_environment())
    words = "compare eight_schools_noncentered --guide mean_field --guide full_rank --warmup 300 --draws 300 --out run"
    done = subprocess.run([command, *words.split()], check=False, cwd=tmp_path, env=_clean_environment())
    assert done.returncode == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_make_demo_works_from_a_fresh_clone(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    done = subprocess.run(["make", "demo"], check=False, cwd=clone, env=_clean_environment())
    assert done.returncode == 0
    assert (clone / "runs/demo/report.html").is_file()
    assert (clone / "runs/demo/overview.png").is_file()
    # Nothing was written that git would see.
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    assert status.stdout == ""
