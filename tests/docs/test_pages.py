"""The pages say what is: their code runs, their commands and links exist, their tables name what is registered."""

from __future__ import annotations

import csv
import importlib.util
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pyrolvm as lvm
from pyrolvm._cli import main
from pyrolvm._cli.parser import build_parser

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LONG = ("compress", "evaluate", "sparse", "sweep", "use-a-posterior", "zoo-deep")
"""Pages whose programs take many seconds: run among the slow tests."""
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(program: str) -> list[str]:
    """Every call of a program in a console block of any page, without its comment."""
    lines = [line for page in PAGES for code in blocks(page, "console") for line in code.splitlines()]
    calls = [line.removeprefix("$ ").partition("  #")[0].strip() for line in lines if line.startswith("$ ")]
    return sorted({call for call in calls if call.split()[0] == program})


def named(page: Path, heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    section = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds every fit and every chain, whatever the page asks for: the page is tested, not the posterior."""
    monkeypatch.setattr(lvm, "fit", _bounded(lvm.fit, {"max_steps": 40, "draws": 200, "progress": False}))
    bounds = {"chains": 2, "warmup": 15, "draws": 20, "max_tree_depth": 4, "progress": False}
    monkeypatch.setattr(lvm, "nuts", _bounded(lvm.nuts, bounds))
    monkeypatch.setattr(lvm, "sweep", _bounded(lvm.sweep, {"backend": "here", "progress": False}))


def _bounded(function: Callable[..., Any], bounds: dict[str, Any]) -> Callable[..., Any]:
    def bounded(*args: Any, **options: Any) -> Any:
        return function(*args, **{**options, **bounds})

    return bounded


@pytest.fixture
def new_arviz(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``import arviz.preview as az``, which is for Python 3.11, mean ArviZ 1 where that is installed."""
    import arviz

    if not arviz.__version__.startswith("0."):
        monkeypatch.setitem(sys.modules, "arviz.preview", arviz)
        monkeypatch.setattr(arviz, "preview", arviz, raising=False)


@pytest.fixture
def closed_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.mark.filterwarnings("default")  # what other libraries warn of is not what these pages are about
@pytest.mark.usefixtures("small_runs", "new_arviz", "closed_figures")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if page.stem in LONG else [])
        for page in PAGES
        if blocks(page, "python")
    ],
    ids=lambda page: page.name,
)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {"__name__": page.stem}
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name}, block {number}", "exec"), scope)


@pytest.mark.filterwarnings("default")
def test_the_pair_of_the_readme_runs_from_the_shell(tmp_path, monkeypatch, capsys):
    pair, use = blocks(README, "python")[:2]
    (tmp_path / "my_model.py").write_text(pair)
    scope: dict[str, Any] = {}
    exec(use.partition("problem =")[0], scope)
    with (tmp_path / "pumps.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["hours", "failures"])
        rows.writerows(zip(scope["hours"], scope["failures"], strict=True))
    monkeypatch.chdir(tmp_path)
    (command,) = (line for line in commands("pyrolvm") if "compare" in line and "pumps.csv" in line)
    small = "--max-steps 40 --chains 2 --warmup 15 --draws 20 --out run"
    assert main(shlex.split(f"{command} {small}")[1:]) in (0, 1)  # 1: so few draws cannot be trusted
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert "guide" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands("pyrolvm"))
def test_a_command_of_a_page_can_be_given(command):
    build_parser().parse_args(shlex.split(command)[1:])


@pytest.mark.parametrize("command", commands("make"))
def test_a_make_target_of_a_page_exists(command):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)


def test_the_readme_names_every_guide_of_ours():
    assert named(README, "Guides") == registered("guides")


def test_the_readme_names_every_problem_of_ours():
    assert named(README, "Problems") | {"eight_schools"} == registered("models")


def test_the_zoo_is_measured_as_far_as_it_can_be_sampled():
    measured = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text(encoding="utf-8"))
    ours = registered("models") & set(lvm.problems(ready=True))
    assert {row["name"] for row in measured["rows"]} == {name for name in ours if not lvm.problem(name).parameters}
    assert not measured["smoke_run"]


def registered(kind: str) -> set[str]:
    """The names of ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["entry-points"][f"pyrolvm.{kind}"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_columns_explained_exist():
    from pyrolvm._check.compare.compared import METHOD_COLUMNS
    from pyrolvm._check.compare.plots import KINDS
    from pyrolvm._check.compare.table import COLUMNS

    text = (ROOT / "docs" / "vi-or-mcmc.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|", text.partition("## The methods table")[2].partition("\n## ")[0], re.M
    )
    assert {name for cell in listed for name in re.findall(r"`(\w+)`", cell)} <= set(METHOD_COLUMNS)
    assert {"mean_diff", "sd_ratio", "w1", "w1_noise", "mass50", "mass90", "heavy_tail"} <= set(COLUMNS)
    shown = text.partition("## The plots")[2].partition("\n## ")[0]
    assert set(KINDS) <= set(re.findall(r"`(\w+)`", shown))


def test_the_plugin_shown_registers_what_it_defines():
    page = ROOT / "docs" / "write-a-plugin.md"
    groups = tomllib.loads(blocks(page, "toml")[0])["project"]["entry-points"]
    assert set(groups) == {"pyrolvm.models", "pyrolvm.guides"}
    for targets in groups.values():
        for target in targets.values():
            assert f"\ndef {target.partition(':')[2]}(" in blocks(page, "python")[0]


def test_numbers_are_those_of_the_committed_measurements():
    command = [sys.executable, str(ROOT / "benchmarks" / "pages.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_picture_is_small():
    assert os.path.getsize(ROOT / "docs" / "images" / "comparison.png") < 300_000


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTY = ["low voice", "high voice", "bird", "strings", "drum"]
EXAMPLES = {
    "cocktail_party": [f"{what} {name}.wav" for name in PARTY for what in ("source", "separated")]
    + [f"microphone {k}.wav" for k in range(1, 6)],
    "custom_pair": ["comparison.png", "rates.png", "report.html"],
    "digits_vae": ["evaluation", "fit", "pictures", "report.html"],
    "minibatch_vae": ["digits.png"],
    "mixture_labels": None,
    "save_and_load": ["full_rank", "own"],
    "start": None,
}


@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("small_runs", "closed_figures")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("digits_vae", "mixture_labels") else [])
        for name in sorted(path.stem for path in (ROOT / "docs" / "examples").glob("*.py"))
    ],
)
def test_an_example_runs(name, tmp_path, capsys):
    example, writes = _script(ROOT / "docs" / "examples" / f"{name}.py"), EXAMPLES[name]
    if writes is None:
        example.main(**({"quick": True} if "quick" in inspect.signature(example.main).parameters else {}))
    else:
        example.main(tmp_path / "out", quick=True)
        assert {path.name for path in (tmp_path / "out").iterdir()} == set(writes)
    assert capsys.readouterr().out
