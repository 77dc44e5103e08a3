"""One table of methods: a row is all that the command line, calibrate, sweep and infer need to know of one."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._cli import main
from pyrolvm._methods.options import options_of
from pyrolvm._methods.table import METHODS, by_name, method, methods

TARGET = f"{Path(__file__)}:model"


def model(y: torch.Tensor = torch.tensor([0.3, -0.2, 1.0])) -> None:  # noqa: B008
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method as an entry point makes it known."""
    point = importlib.metadata.EntryPoint("prior_weighted", "tests.architecture.a_method:ROW", "pyrolvm.methods")
    known = importlib.metadata.entry_points

    def entry_points(**chosen: Any) -> Any:
        return [point] if chosen.get("group") == "pyrolvm.methods" else known(**chosen)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return point.name


@pytest.fixture
def problem() -> lvm.Problem:
    return lvm.Problem(model, torch.tensor([0.3, -0.2, 1.0]))


@pytest.mark.parametrize("name", METHODS)
def test_every_row_is_a_public_function_that_says_what_its_options_are(name: str) -> None:
    row = METHODS[name]
    assert row.call is getattr(lvm, name)
    assert issubclass(row.returns, lvm.Posterior)
    assert all(option.sentence for option in row.options.values()), row.options
    assert {"seed", "progress", "out", "resume", "overwrite"} <= set(options_of(row.home))


@pytest.mark.parametrize("name", METHODS)
def test_options_are_what_the_function_takes(name: str) -> None:
    import inspect

    taken = inspect.signature(getattr(lvm, name)).parameters
    assert list(options_of(METHODS[name].home)) == [n for n, p in taken.items() if p.kind is p.KEYWORD_ONLY]


def test_a_registered_method_is_known_by_its_name(registered: str) -> None:
    assert registered in methods() and registered in by_name()
    assert method(registered).options["effort"].sentence == "how hard to try"


def test_a_registered_method_is_a_command(registered: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        registered,
        TARGET,
        "--effort",
        "2.5",
        "--draws",
        "40",
        "--out",
        str(tmp_path / "a"),
        "--json",
        "-",
        "--quiet",
    ]
    assert main(words) in (0, 1)
    assert json.loads(capsys.readouterr().out)["command"] == registered
    assert lvm.load(tmp_path / "a").num_draws == 40
    with pytest.raises(SystemExit):
        raise SystemExit(main([registered, "--help"]))
    assert "--effort X" in capsys.readouterr().out


def test_a_registered_method_is_calibrated_swept_and_climbed(registered: str, problem: lvm.Problem) -> None:
    found = lvm.calibrate(problem, registered, simulations=3, draws=9, effort=2.0, workers=1, progress=False)
    assert found.successes == 3 and found.method.startswith(registered)
    cells = lvm.sweep({"p": problem}, [registered], 1, backend="here", progress=False, effort=3.0)
    assert cells.counts == {"done": 1}
    climbed = lvm.infer(problem, methods=[registered], progress=False)
    assert [rung["method"] for rung in climbed.ladder] == [registered]


def test_a_row_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("broken", "json:dumps", "pyrolvm.methods")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [point])
    with pytest.raises(lvm.PluginError, match=r"'broken' .* expected a Method.*Fix:"):
        method("broken")
    assert "broken" not in methods()


def test_an_unknown_method_is_named_with_those_that_there_are() -> None:
    with pytest.raises(lvm.UnknownNameError, match="nuts"):
        method("nutz")


def test_what_is_known_of_a_family_is_kept_in_its_fits(problem: lvm.Problem) -> None:
    attrs = lvm.fit(problem, "mean_field", max_steps=60, progress=False).data["posterior"].attrs
    assert (attrs["family_one_mode"], attrs["family_richer"]) == (1, "full_rank")
    attrs = lvm.fit(problem, "student", progress=False).data["posterior"].attrs
    assert (attrs["family_one_mode"], attrs["family_richer"]) == (0, "flow")
