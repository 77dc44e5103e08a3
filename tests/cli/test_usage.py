"""Words that cannot be understood: exit code 2, the nearest match, and a remedy."""

from __future__ import annotations

import pytest

COMMANDS = [
    "list",
    "fit",
    "nuts",
    "compare",
    "calibrate",
    "evidence",
    "gaps",
    "evaluate",
    "sample",
    "diagnose",
    "report",
    "doctor",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_shows_examples(pyrolvm, command):
    run = pyrolvm(command, "--help")
    assert run.code == 0
    assert f"  pyrolvm {command}" in run.out.partition("examples:")[2]


def test_help_names_every_command(pyrolvm):
    run = pyrolvm("--help")
    assert run.code == 0
    assert all(f"    {command}" in run.out for command in COMMANDS)


def test_version(pyrolvm):
    assert pyrolvm("--version").out.startswith("pyrolvm 0.")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["compre", "x"], ["did you mean compare?"]),
        (["fit", "eight_schools", "--gude", "flow"], ["--gude", "did you mean --guide?"]),
        (["fit", "eight_schools", "--max-step", "3"], ["did you mean --max-steps?"]),
        (["fit"], ["TARGET", "pyrolvm fit --help"]),
        ([], ["COMMAND", "pyrolvm --help"]),
        (["fit", "eight_schools", "--seed", "-1"], ["--seed", "at least 0", "'-1'"]),
        (["fit", "eight_schools", "--seed", "0.5"], ["--seed", "'0.5'"]),
        (["fit", "eight_schools", "--seed", "18446744073709551617"], ["at most 18446744073709551616"]),
        (["fit", "eight_schools", "--max-steps", "0"], ["--max-steps", "at least 1", "'0'"]),
        (["fit", "eight_schools", "--num-particles", "many"], ["--num-particles", "'many'"]),
        (["fit", "eight_schools", "--batch-size", "-5"], ["--batch-size", "'-5'"]),
        (["nuts", "eight_schools", "--chains", "0"], ["--chains", "'0'"]),
        (["nuts", "eight_schools", "--warmup", "1e3"], ["--warmup", "'1e3'"]),
        (["nuts", "eight_schools", "--draws", ""], ["--draws", "''"]),
        (["nuts", "eight_schools", "--target-accept", "1"], ["--target-accept", "between 0 and 1"]),
        (["nuts", "eight_schools", "--target-accept", "high"], ["--target-accept", "'high'"]),
        (["fit", "eight_schools", "--learning-rate", "0"], ["--learning-rate", "positive"]),
        (["fit", "eight_schools", "--learning-rate", "fast"], ["--learning-rate", "'fast'"]),
        (["fit", "eight_schools", "--dtype", "float16"], ["--dtype", "float64"]),
        (["fit", "eight_schools", "--option", "k"], ["--option", "KEY=VALUE"]),
        (["fit", "eight_schools", "--option", "a-b=1"], ["--option", "'a-b=1'"]),
        (["fit", "eight_scools"], ["eight_scools", "did you mean 'eight_schools'"]),
        (["fit", "eight_schools", "--guide", "full_rnk"], ["full_rnk", "did you mean 'full_rank'"]),
        (["fit", "eight_schools", "--guide", "flow:transform=4"], ["no option 'transform'"]),
        (["fit", "eight_schools", "--guide", "flow:4"], ["KEY=VALUE"]),
        (["compare", "eight_schools", "--guide", "full_rank", "--guide", "flw"], ["flw", "did you mean 'flow'"]),
        (["compare", "eight_schools", "--reference", "nut"], ["did you mean 'nuts'"]),
        (["compare", "eight_schools", "--no-nuts", "--reference", "nuts"], ["no method of this comparison"]),
        (["fit", "eight_schools", "--data", "x.csv"], ["no data file 'x.csv'"]),
        (["fit", "models/thing"], ["path/file.py:function"]),
        (["calibrate", "eight_schools", "--workers", "0"], ["--workers", "at least 1"]),
        (["calibrate", "eight_schools", "--method", "mean_feild"], ["did you mean 'mean_field'"]),
        (["calibrate", "eight_schools", "--resume"], ["--out"]),
        (["diagnose", "runs/none"], ["no run at 'runs/none'"]),
        (["report", "runs/none"], ["no run at 'runs/none'"]),
        (["report", "runs/none", "--out", "page.txt"], [".html"]),
        (["list", "--json", "nowhere/x.json"], ["--json nowhere/x.json"]),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(pyrolvm, inference, words, parts):
    run = pyrolvm(*words)
    assert run.code == 2
    assert run.out == ""
    assert run.err.count("\n") == 1 and "Traceback" not in run.err
    assert "Fix: " in run.err
    for part in parts:
        assert part in run.err
    assert inference.calls == []


def test_a_bug_shows_its_traceback_and_has_an_exit_code_of_its_own(pyrolvm, inference):
    def bug(made):
        raise RuntimeError("a hole in the bucket")

    inference.on["full_rank"] = bug
    run = pyrolvm("fit", "eight_schools", "--guide", "full_rank")
    assert run.code == 3
    assert "a hole in the bucket" in run.err and "report" in run.err


def test_warnings_of_ours_are_sentences(pyrolvm, inference, recwarn):
    import warnings

    import pyrolvm as lvm

    def warn(made):
        warnings.warn("the guide is narrow.", lvm.PyrolvmWarning, stacklevel=2)
        return made

    inference.on["full_rank"] = warn
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run = pyrolvm("fit", "eight_schools", "--guide", "full_rank")
    assert run.code == 0
    assert "warning: the guide is narrow.\n" in run.err


def test_a_value_of_two_dashes_is_no_value(pyrolvm):
    run = pyrolvm("exact", "eight_schools", "--out=--")
    assert run.code == 2 and "argument --out: '--' is no value" in run.err and "Fix:" in run.err
