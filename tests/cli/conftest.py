"""A command line whose inference is made up: what it runs, saves and prints can be looked at in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arviz_base
import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._cli import main


@dataclass
class Run:
    """What one call of the command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def pyrolvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Runs the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Run:
        capsys.readouterr()
        code = main([*words])
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return call


@dataclass
class Made:
    """A made-up posterior with what the command line reads."""

    name: str
    data: Any
    verdict: Verdict
    seed: int = 0
    elbo: float = -10.0
    evidence: Any = None
    engine: str = "torch"
    engine_reason: str = "it was made up"
    seconds: dict[str, float] = field(default_factory=lambda: {"compile": 0.5, "run": 1.0})
    store: dict[Path, Made] = field(default_factory=dict)
    ladder: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path, **words: Any) -> None:
        codec: runs.Codec[Made] = runs.Codec(
            "Posterior", lambda made: {"meta": (".json", runs.as_json({"name": made.name}))}, lambda folder: self
        )
        asked = runs.order(path, words.get("resume", False), words.get("overwrite", False))
        runs.run(asked, "made up", {}, codec, lambda run: self)
        self.store[path.resolve()] = self


def _chains(rng: np.random.Generator) -> Any:
    return arviz_base.from_dict(
        {
            "posterior": {"mu": rng.normal(size=(4, 500))},
            "sample_stats": {"diverging": np.zeros((4, 500), bool), "energy": rng.normal(size=(4, 500))},
        }
    )


def _draws(rng: np.random.Generator, scale: float) -> Any:
    mu = scale * rng.normal(size=(1, 1000))
    log_q = -0.5 * (mu / scale) ** 2 - np.log(scale)
    stats = {"lp": -0.5 * mu**2, "log_q": log_q, "log_weight": -0.5 * mu**2 - log_q}
    return arviz_base.from_dict({"posterior": {"mu": mu}, "sample_stats": stats})


@pytest.fixture
def inference(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Replaces fit, nuts, infer and load. ``.calls`` records what was asked; ``.on[label]`` runs instead of a method."""
    state = SimpleNamespace(calls=[], on={}, verdicts={}, store={}, rng=np.random.default_rng(0))

    def label_of(guide: Any) -> str:
        return guide if isinstance(guide, str) else str(getattr(guide, "name", getattr(guide, "__name__", guide)))

    def make(label: str, data: Any) -> Made:
        status = state.verdicts.get(label, "trusted")
        return Made(label, data, Verdict.of([Reason(status, f"{label} was made {status}.")]), store=state.store)

    def kept(made: Any, options: dict[str, Any]) -> Any:
        if "out" in options and isinstance(made, Made):
            made.save(Path(options["out"]), **options)
        return made

    def fit(problem: Any, guide: Any = "auto", **options: Any) -> Any:
        label = label_of(guide)
        state.calls.append(("fit", problem, guide, options))
        made = make(label, _draws(state.rng, 1.02))
        return kept(state.on[label](made) if label in state.on else made, options)

    def nuts(problem: Any, **options: Any) -> Any:
        state.calls.append(("nuts", problem, None, options))
        made = make("nuts", _chains(state.rng))
        return kept(state.on["nuts"](made) if "nuts" in state.on else made, options)

    def infer(problem: Any, **options: Any) -> Any:
        state.calls.append(("infer", problem, options.get("methods"), options))
        made = make("student", _draws(state.rng, 1.0))
        made.ladder = [{"method": "student", "status": "trusted", "khat": 0.25, "seconds": 0.5}]
        return kept(made, options)

    def load(path: Any) -> Any:
        return state.store[Path(path).resolve()]

    for name, function in {"fit": fit, "nuts": nuts, "infer": infer, "load": load}.items():
        monkeypatch.setitem(lvm.__dict__, name, function)
    yield state


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file with a model, guides, problems and functions that make problems."""
    path = tmp_path / "my_model.py"
    path.write_text(
        """
import pyro
import pyro.distributions as dist
import pyrolvm as lvm
from pyrolvm import _runs as runs
import torch
from my_helper import SCALE

def model(x, y, prior=1.0):
    slope = pyro.sample("slope", dist.Normal(0.0, prior * SCALE))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

def matrix_model(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, 1.0), obs=y)

def guide(x, y, prior=1.0):
    pyro.sample("slope", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

def make(n=3):
    return lvm.Problem(model, torch.ones(n), torch.zeros(n))

def breaks():
    return lvm.Problem(model, [], [])

problem = make(4)
number = 3
"""
    )
    (tmp_path / "my_helper.py").write_text("SCALE = 1.0\n")
    return path
