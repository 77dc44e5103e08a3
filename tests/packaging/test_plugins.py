"""Problems and guides of a stranger's distribution: as good as ours, and unable to harm them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._cli import main

MODULE = '''
import pyro
import pyro.distributions as dist
import pyrolvm as lvm
import torch

def coin(heads):
    """A coin."""
    fairness = pyro.sample("fairness", dist.Beta(2.0, 2.0))
    with pyro.plate("toss", len(heads)):
        pyro.sample("heads", dist.Bernoulli(fairness), obs=heads)

def their_coin(tosses=20):
    """Tosses of one coin."""
    return lvm.Problem(coin, torch.tensor([1.0, 0.0, 1.0, 1.0]).repeat(tosses // 4))

def their_beta(problem, start=2.0):
    """A Beta distribution, which is exact for a coin."""
    if "fairness" not in problem.sites:
        raise lvm.GuideError("their_beta is for a site 'fairness'. Fix: use full_rank.")

    def guide(*args):
        positive = dist.constraints.positive
        a = pyro.param("a", torch.tensor(start), constraint=positive)
        b = pyro.param("b", torch.tensor(start), constraint=positive)
        pyro.sample("fairness", dist.Beta(a, b))

    return guide

number = 3
'''

POINTS = """
[pyrolvm.models]
their_coin = their_plugin:their_coin
their_broken = their_plugin.missing:thing
their_number = their_plugin:number
eight_schools = their_plugin:their_coin

[pyrolvm.guides]
their_beta = their_plugin:their_beta
their_lost = their_plugin:no_such_guide
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution, as pip leaves it: a module, and metadata with entry points."""
    site = tmp_path / "site"
    info = site / "their_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "their_plugin.py").write_text(MODULE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("their_plugin", None)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


pytestmark = pytest.mark.usefixtures("plugin")


def test_names_are_listed_without_importing_anything():
    assert "their_coin" in lvm.problems() and "their_broken" in lvm.problems()
    assert "their_beta" in lvm.guides() and "full_rank" in lvm.guides()
    assert "their_plugin" not in sys.modules


def test_a_problem_of_a_plugin_takes_its_options():
    assert len(lvm.problem("their_coin", tosses=8).args[0]) == 8
    with pytest.raises(lvm.ArgumentError, match=r"no option 'toses'.*Fix: use tosses"):
        lvm.problem("their_coin", toses=8)


def test_a_guide_of_a_plugin_fits():
    fit = lvm.fit(
        lvm.problem("their_coin"), "their_beta", max_steps=1000, draws=1000, engine="pyro", seed=0, progress=False
    )
    # 15 heads of 20 under Beta(2, 2): the posterior is Beta(17, 7), which the guide can be exactly.
    draws = fit.data["posterior"]["fairness"]
    assert abs(float(draws.mean()) - 17 / 24) < 0.03
    assert abs(float(draws.std()) - (17 * 7 / (24**2 * 25)) ** 0.5) < 0.02


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("problem", "their_broken", r"'their_broken' of distribution 'their-plugin'.*ModuleNotFoundError.*Fix: "),
        ("problem", "their_number", r"'their_number' .*is a int, expected a function.*Fix: "),
        ("guide", "their_lost", r"'their_lost' of distribution 'their-plugin'.*AttributeError.*Fix: "),
    ],
)
def test_a_broken_plugin_is_named_when_it_is_asked_for(kind, name, says):
    with pytest.raises(lvm.PluginError, match=says):
        getattr(lvm, kind)(name)


def test_a_broken_plugin_harms_nothing_else():
    assert lvm.problem("eight_schools").unconstrained_size == 10
    assert lvm.guide("full_rank").name == "full_rank"


def test_a_plugin_cannot_take_a_name_of_ours():
    assert "mu" in lvm.problem("eight_schools").sites


def test_list_marks_what_is_broken(shell):
    code, out, _ = shell("list")
    assert code == 0
    assert "Tosses of one coin." in out and "their-plugin" in out
    assert out.count("BROKEN") == 3
    assert "broken: guide 'their_lost'" in out


def test_doctor_notes_a_strangers_fault_and_goes_on(shell):
    code, out, _ = shell("doctor")
    assert code == 0
    assert "guide their_lost" in out and "their-plugin" in out


def test_their_names_are_suggested_too(shell):
    code, _, err = shell("fit", "their_coim")
    assert code == 2 and "did you mean 'their_coin'" in err
