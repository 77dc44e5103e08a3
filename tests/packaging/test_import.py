"""What importing costs, and what it must not bring along."""

from __future__ import annotations

import importlib
import json
import pkgutil
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

import pyrolvm as lvm

HEAVY = ["jax", "numpyro", "matplotlib", "arviz", "arviz_base", "arviz_stats", "arviz_plots", "sklearn"]

COST = """
import json, sys, time
before = time.process_time()
import pyro
between = time.process_time()
import pyrolvm as lvm
for name in lvm.__all__:
    getattr(lvm, name)
share = (time.process_time() - between) / (between - before)
print(json.dumps({"share": share, "modules": [n for n in sys.modules if "." not in n]}))
"""

SHARE = 0.7
"""What all of pyrolvm may cost beside Pyro and torch: half is usual, on any machine."""


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_everything_costs_little_beside_pyro():
    """As a share of Pyro's own processor time, so that neither the machine nor its load counts; the whole public API."""
    found = []
    for _ in range(10):  # what it costs is the least that it costs: caches and neighbours only add to it
        run = json.loads(_python(COST))
        assert not set(HEAVY) & set(run["modules"])
        found.append(run["share"])
        if found[-1] < SHARE:
            return
    pytest.fail(f"importing takes {min(found):.2f} of what Pyro takes, expected at most {SHARE}")


def test_what_is_registered_is_listed_without_torch():
    code = "import sys\nfrom pyrolvm._cli import main\nmain(['list'])\nprint([n for n in sys.modules if '.' not in n])"
    modules = _python(code).rsplit("\n", 2)[1]
    assert not any(f"'{name}'" in modules for name in ("torch", "pyro", "numpy", *HEAVY))


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["--version"], ["fit"]])
def test_help_starts_without_torch(words):
    code = (
        f"import sys\nfrom pyrolvm._cli import main\nmain({words!r})\nprint([n for n in sys.modules if '.' not in n])"
    )
    modules = _python(code).rsplit("\n", 2)[1]
    assert not any(f"'{name}'" in modules for name in ("torch", "pyro", "numpy", "rich", *HEAVY))


FIRST = """
import sys, pyro, torch, pyro.distributions as dist, pyrolvm as lvm
def model(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)
def guide(y):
    shape = pyro.param("shape", torch.tensor(3.0), dist.constraints.positive)
    pyro.sample("rate", dist.Gamma(shape, 2.0))
fit = lvm.fit(lvm.Problem(model, [1.0, 0.0, 3.0]), guide, draws=100, progress=False)
print(fit.engine, [name for name in ("sympy", "torch._dynamo", "jax", "numpyro") if name in sys.modules])
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_first_fit_in_c_brings_no_other_compiler_along():
    """Each would take from half a second to two of it: SymPy to broadcast shapes, torch's compiler for one operation, JAX for draws."""
    assert _python(FIRST).split(maxsplit=1) == ["c", "[]\n"]


def test_public_names_stay_what_they_are_whatever_is_imported():
    """A subpackage takes the name of a function that is called like it, once it is imported."""
    for module in pkgutil.walk_packages(lvm.__path__, "pyrolvm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    modules = [name for name in lvm.__all__ if isinstance(getattr(lvm, name), ModuleType)]
    assert modules == ["callbacks"]  # a module on purpose


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="fitt"):
        lvm.fitt  # noqa: B018
    assert set(lvm.__all__) == set(dir(lvm))


def test_python_dash_m():
    assert (
        "commands:"
        in subprocess.run(
            [sys.executable, "-m", "pyrolvm", "--help"], capture_output=True, text=True, check=True
        ).stdout
    )
