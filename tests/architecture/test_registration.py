"""A guide, objective, engine, diagnostic and command of a stranger: one module and one entry point each, nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._cli import main
from pyrolvm.plugins import Reason

TARGET = f"{Path(__file__)}:model"

GUIDE = '''
"""A guide."""
import pyro
import pyro.distributions as dist
import torch

def toy(problem):
    """A Gaussian of one site."""
    def guide(*args):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), scale))
    return guide
'''

OBJECTIVE = '''
"""An objective."""
from pyro import poutine
from pyrolvm.plugins import PureELBO

class Toy(PureELBO):
    """The ELBO, one draw."""
    def particles(self, model, guide, *args, **kwargs):
        drawn = poutine.trace(guide).get_trace(*args, **kwargs)
        ran = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*args, **kwargs)
        return (ran.log_prob_sum() - drawn.log_prob_sum()).reshape(1)
'''

ENGINE = '''
"""An engine."""
import numpy as np
from pyrolvm.plugins import Taken

class Toy:
    """Steps of plain torch."""
    name, limit, compile_seconds = "toy", 5, 0.0

    def __init__(self, work, chunk):
        self.work = work

    def advance(self, first, factors):
        losses, rates = [], []
        for factor in factors:
            batch = self.work.batch(self.work.rows())
            with batch.active():
                loss = self.work.objective.differentiable_loss(self.work.problem.model, self.work.guide, *batch.args, **batch.kwargs)
            loss.backward()
            self.work.stepper.step(self.work.parameters(), factor)
            losses.append(float(loss.detach()))
            rates.append(self.work.stepper.learning_rate)
        count = len(losses)
        return Taken(np.array(losses), np.full(count, np.nan), np.array(rates), np.ones(count, bool))

    def publish(self): pass
    def restart(self): self.work.stepper.restart()
    def state(self): return {}
    def restore(self, state): pass
'''

DIAGNOSTIC = '''
"""A check."""
import pyrolvm as lvm
from pyrolvm.plugins import Reason

def toy(data):
    """Whether `m` is below ten."""
    if "m" not in data["posterior"]:
        return lvm.Verdict("trusted")
    largest = float(abs(data["posterior"]["m"]).max())
    status = "doubtful" if largest > 10 else "trusted"
    return lvm.Verdict.of([Reason(status, f"`m` goes up to {largest:.2g}.", {"largest m": largest})])
'''

COMMAND = '''
"""A command."""
from pyrolvm.plugins import Command

def run(args, out):
    out.line(f"{args.problem.unconstrained_size * args.times} numbers")
    out.write_json({"numbers": args.problem.unconstrained_size * args.times})
    return 0

def arguments(parser):
    parser.add_argument("--times", type=int, default=1, help="how often")

TOY = Command("Count the unknowns of a problem.", run, arguments, ("pyrolvm toy eight_schools",), problem=True)
'''


def model(y: torch.Tensor = torch.tensor([0.3, -0.2, 1.0])) -> None:  # noqa: B008
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.fixture
def problem() -> lvm.Problem:
    return lvm.Problem(model, torch.tensor([0.3, -0.2, 1.0]))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, str], None]]:
    """Installs a distribution as pip leaves it: one module, and metadata with one entry point."""
    site = tmp_path / "site"
    info = site / "toy_plugin-1.0.dist-info"

    def made(source: str, group: str, attribute: str) -> None:
        info.mkdir(parents=True)
        (site / "toy_plugin.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\ntoy = toy_plugin:{attribute}\n")
        monkeypatch.syspath_prepend(str(site))

    yield made
    sys.modules.pop("toy_plugin", None)


def test_a_guide(install, problem):
    install(GUIDE, "pyrolvm.guides", "toy")
    fit = lvm.fit(problem, "toy", max_steps=60, progress=False)
    assert fit.name == "toy" and fit.num_draws > 100


def test_an_objective(install, problem):
    install(OBJECTIVE, "pyrolvm.objectives", "Toy")
    fit = lvm.fit(problem, "mean_field", objective="toy", max_steps=400, engine="c", progress=False)
    assert fit.engine == "c" and fit.data["posterior"].attrs["objective"].startswith("toy: ")
    # y has sum 1.1: the posterior is Normal(1.1 / 4, 1 / 2).
    assert abs(float(fit.data["posterior"]["m"].mean()) - 0.275) < 0.15
    with pytest.raises(lvm.UnknownNameError, match=r"did you mean 'toy'"):
        lvm.fit(problem, "mean_field", objective="toys", progress=False)


def test_an_engine(install, problem):
    install(ENGINE, "pyrolvm.engines", "Toy")
    ours, theirs = (
        lvm.fit(problem, "mean_field", engine=engine, max_steps=40, tolerance=0, seed=3, progress=False)
        for engine in ("pyro", "toy")
    )
    assert theirs.engine == "toy" and theirs.engine_reason == "asked for"
    assert all(torch.allclose(value, theirs.params[name]) for name, value in ours.params.items())


def test_an_engine_that_refuses_leaves_the_fit_to_stock_pyro(install, problem):
    refusing = "from pyrolvm import CaptureError\n\ndef toy(work, chunk):\n    raise CaptureError('it is Sunday.')\n"
    install(refusing, "pyrolvm.engines", "toy")
    with pytest.warns(lvm.PyrolvmWarning, match=r"engine 'toy' cannot run this fit.*it is Sunday"):
        fit = lvm.fit(problem, "mean_field", engine="toy", max_steps=20, progress=False)
    assert fit.engine == "pyro" and "Sunday" in fit.engine_reason


def test_a_diagnostic_is_part_of_every_verdict(install, problem):
    install(DIAGNOSTIC, "pyrolvm.diagnostics", "toy")
    fit = lvm.fit(problem, max_steps=300, progress=False)
    assert "largest m" in fit.verdict.figures and "largest m" in lvm.diagnose(fit).verdict.figures


def test_a_check_is_given_as_an_argument(problem):
    def sign(data):
        return lvm.Verdict.of([Reason("failed", "`m` has to be negative.")], ["Look at the units."])

    fit = lvm.fit(problem, max_steps=300, progress=False)
    found = lvm.diagnose(fit, checks=[sign])
    assert found.verdict.status == "failed" and "Look at the units." in found.verdict.next_steps
    with pytest.raises(lvm.ArgumentError, match=r"check .*lambda.* returned a bool, expected a Verdict.*Fix:"):
        lvm.diagnose(fit, checks=[lambda data: True])


def test_a_command(install, capsys):
    install(COMMAND, "pyrolvm.commands", "TOY")
    assert main(["toy", TARGET, "--times", "3", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["numbers"] == 3
    assert main(["toy", "--help"]) == 0
    assert "--times" in capsys.readouterr().out
    assert main(["toyy", TARGET]) == 2
    assert "did you mean toy?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "source", "attribute", "shown"),
    [
        ("objective", OBJECTIVE, "Toy", "The ELBO, one draw."),
        ("engine", ENGINE, "Toy", "Steps of plain torch."),
        ("diagnostic", DIAGNOSTIC, "toy", "Whether `m` is below ten."),
        ("command", COMMAND, "TOY", "Count the unknowns of a problem."),
    ],
)
def test_list_shows_it_with_its_distribution(install, capsys, word, source, attribute, shown):
    install(source, f"pyrolvm.{word}s", attribute)
    assert main(["list", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)[f"{word}s"]
    assert {"name": "toy", "distribution": "toy-plugin", "does": shown, "broken": None} in rows


# --- what is broken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["objective", "command", "method"])
def test_what_is_of_another_kind_is_named_where_it_is_asked_for(install, problem, capsys, word):
    install("number = 3\n", f"pyrolvm.{word}s", "number")
    assert main(["list"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"broken: {word} 'toy' of distribution 'toy-plugin' (toy_plugin:number) is a int, expected" in told
    assert main(["lis"]) == 2  # and nothing else is disturbed
    assert "did you mean list?" in capsys.readouterr().err
    if word in ("command", "method"):
        assert main(["toy"]) == 2
        assert f"{word} 'toy' of distribution 'toy-plugin' (toy_plugin:number) is a int" in capsys.readouterr().err
    if word == "objective":
        with pytest.raises(lvm.PluginError, match=r"'toy' .* expected a subclass of pyro.infer.ELBO.*Fix:"):
            lvm.fit(problem, objective="toy", progress=False)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def toy(data):\n    return data['no such group']\n", "no such group"),
        ("def toy(data):\n    return 3\n", "returned a int, expected a Verdict"),
        ("import nothing_of_that_name\n", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_diagnostic_that_fails_is_named_and_changes_nothing(install, problem, source, says):
    fit = lvm.fit(problem, max_steps=300, progress=False)
    before = lvm.diagnose(fit).verdict.status
    install(source, "pyrolvm.diagnostics", "toy")
    verdict = lvm.diagnose(fit).verdict
    assert verdict.status == before
    assert any("'toy' of distribution 'toy-plugin'" in r.text and says in r.text for r in verdict.reasons)
    assert any("Repair or uninstall toy-plugin" in step for step in verdict.next_steps)


def test_an_engine_that_lacks_something_is_refused_before_the_first_step(install, problem):
    install("class Toy:\n    name = 'toy'\n    def __init__(self, work, chunk): pass\n", "pyrolvm.engines", "Toy")
    with pytest.raises(lvm.PluginError, match=r"has no limit and no compile_seconds and no advance.*Fix:"):
        lvm.fit(problem, "mean_field", engine="toy", max_steps=400, progress=False)


def test_an_objective_without_a_loss_is_refused(problem):
    class Empty(pyro.infer.ELBO):
        def _get_trace(self, model, guide, args, kwargs):
            raise NotImplementedError

    class Closed(Empty):
        def __init__(self):
            super().__init__()

    with pytest.raises(lvm.ArgumentError, match=r"Empty has no loss and no loss_and_grads.*Fix:"):
        lvm.fit(problem, "mean_field", objective=Empty, progress=False)
    with pytest.raises(lvm.ArgumentError, match=r"Closed cannot be made with num_particles.*Fix:"):
        lvm.fit(problem, "mean_field", objective=Closed, progress=False)


def test_a_command_that_returns_nothing_is_named(install, capsys):
    install(
        "from pyrolvm.plugins import Command\n\nTOY = Command('Does it.', lambda args, out: None)\n",
        "pyrolvm.commands",
        "TOY",
    )
    assert main(["toy"]) == 2
    assert "returned a NoneType, expected its exit code" in capsys.readouterr().err
