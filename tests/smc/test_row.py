"""What the row in the table of methods gives: a command, calibration, sweeps, comparisons and a rung of infer."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pyrolvm as lvm
from pyrolvm._cli import main
from pyrolvm._methods.table import method

SMALL = {"particles": 200, "islands": 2}


def test_the_command_runs_and_keeps_what_it_found(tmp_path, capsys):
    words = ["smc", "eight_schools", "--particles", "400", "--seed", "3", "--out", str(tmp_path / "a"), "--json", "-"]
    assert main(words) in (0, 1)
    told = json.loads(capsys.readouterr().out)
    found = lvm.load(tmp_path / "a")
    assert isinstance(found, lvm.Particles) and found.num_draws == 400
    assert told["verdict"]["status"] == found.verdict.status
    same = lvm.smc(lvm.problem("eight_schools"), particles=400, seed=3, progress=False)
    assert same.evidence.value == found.evidence.value
    assert main([*words, "--resume"]) in (0, 1)


@pytest.mark.slow
def test_calibrations_and_sweeps_take_its_name(known, tmp_path):
    problem = known("regression").problem
    calibration = lvm.calibrate(problem, "smc", simulations=4, draws=20, progress=False, **SMALL)
    assert "smc" in str(calibration)
    out = tmp_path / "sweep"
    sweep = lvm.sweep({"one": problem}, ["smc"], seeds=2, backend="here", progress=False, out=out, **SMALL)
    assert len(sweep.table) == 2
    # Whoever reads it in a process that has run no particles knows their class all the same.
    reads = f"import pyrolvm as lvm; print(type(lvm.load({str(out)!r}).posterior('one', 'smc', 0)).__name__)"
    told = subprocess.run([sys.executable, "-c", reads], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "Particles"


def test_infer_climbs_to_it_where_nothing_else_can_be_trusted(known):
    one = known("two_modes")
    found = lvm.infer(one.problem, methods=["mean_field", "smc"], progress=False)
    assert isinstance(found, lvm.Particles) and found.verdict.trusted and one.off(found) < 0.1
    assert [rung["method"] for rung in found.ladder] == ["mean_field", "smc"]
    assert method("smc").rung


@pytest.mark.parametrize("name", ["particles", "islands", "ess", "forget", "max_moves", "start"])
def test_each_option_is_said_once_and_for_all(name):
    option = method("smc").options[name]
    assert option.sentence and option.default is not None
