from __future__ import annotations

import warnings

import pytest

import pyrolvm as lvm
from tests.programs.cases import PROGRAMS
from tests.programs.table import density_engine, plain_default, quick_fit, run, wrong

SHARE = 0.15
"""Of programs whose density may run on stock Pyro."""

QUICK = [
    pytest.param(name, marks=[] if number % 8 == 0 or make().interpreted else [pytest.mark.slow])
    for number, (name, make) in enumerate(PROGRAMS.items())
]
"""Every eighth program, and all that run on stock Pyro; the others are among the slow tests, as are all of them by every engine."""
KEPT = frozenset(list(PROGRAMS)[::8])
"""Programs whose chains, saving and loading are tried here too; those of all are tried in the slow tier."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", QUICK)
def test_a_program_runs_and_its_draws_have_the_density_of_stock_pyro(name, tmp_path):
    case = PROGRAMS[name]()
    problem = lvm.Problem(case.model, *case.args, **case.kwargs)
    assert bool(density_engine(problem)) == bool(case.interpreted)
    found = [("default", quick_fit(problem, plain_default(problem)))]
    if case.guide is not None:
        found.append(("own", quick_fit(problem, case.guide)))
    if case.nuts and name in KEPT:
        budget = {"chains": 1, "warmup": 1, "draws": 2, "max_tree_depth": 1}
        found.append(("nuts", lvm.nuts(problem, engine="pyro", progress=False, **budget)))
    for label, result in found:
        assert not wrong(case, problem, result, drawn=case.drawn and label == "own"), label
    last = found[-1][1]
    assert lvm.diagnose(last).verdict.reasons
    if name in KEPT:
        last.save(tmp_path / "result")
        assert lvm.load(tmp_path / "result", problem=problem).num_draws == last.num_draws


def test_few_programs_run_on_stock_pyro_and_each_has_its_line():
    interpreted = [name for name, make in PROGRAMS.items() if make().interpreted]
    assert len(PROGRAMS) >= 60
    assert len(interpreted) <= SHARE * len(PROGRAMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_runs_by_the_engines_that_users_get(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        row = run(name, PROGRAMS[name](), tmp_path, full=False)
    assert not row.wrong
    assert bool(row.line) == bool(PROGRAMS[name]().interpreted)
