"""What `pyrolvm compare` runs, prints, saves and returns. Inference is made up; diagnosis, comparison and pages are real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._cli.runs import posteriors_in
from tests.cli.interrupting import interrupt_but_return_what_was_reached, interrupt_in_the_middle

NOISY = pytest.mark.filterwarnings("default")  # the made-up posteriors may be odd; third parties may say so


@NOISY
def test_compare_runs_nuts_and_every_guide_and_writes_everything(pyrolvm, inference):
    run = pyrolvm("compare", "eight_schools", "--seed", "3", "--draws", "50", "--max-steps", "9")
    assert run.code == 0
    assert [call[0] for call in inference.calls] == ["nuts", *["fit"] * len(lvm.guides())]
    assert {name: inference.calls[0][3][name] for name in ("seed", "draws")} == {"seed": 3, "draws": 50}
    assert {name: inference.calls[1][3][name] for name in ("seed", "max_steps")} == {"seed": 3, "max_steps": 9}
    folder = Path("runs/eight_schools-1")
    assert (folder / "report.html").read_text().count("<html") == 1
    assert (folder / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "comparison.json").read_text())["reference"] == "nuts"
    note = json.loads((folder / "manifest.json").read_text())["content"]
    assert note["status"] == "finished" and note["about"]["arguments"]["seed"] == 3
    assert note["pages"] == ["comparison.json", "overview.png", "posteriors", "report.html"]
    assert {path.name for path in (folder / "posteriors").iterdir()} == {"nuts", *lvm.guides()}
    assert set(posteriors_in([str(folder)])) == {"nuts", *lvm.guides()}
    for part in ("against nuts", "full_rank", "differs", "report.html"):
        assert part in run.out


@NOISY
def test_guides_that_do_not_suit_are_named_with_the_reason(pyrolvm, inference):
    def unsuited(made):
        raise lvm.GuideError("it needs a plate. Fix: use full_rank.")

    def broken(made):
        raise RuntimeError("some plugin's bug")

    inference.on |= {"amortized": unsuited, "flow": broken}
    run = pyrolvm("compare", "eight_schools", "--json", "o.json")
    assert run.code == 0
    assert "amortized was left out: it needs a plate." in run.out
    assert "flow was left out: RuntimeError: some plugin's bug" in run.out
    assert set(json.loads(Path("o.json").read_text())["left_out"]) == {"amortized", "flow"}
    assert "it needs a plate" in Path("runs/eight_schools-1/report.html").read_text()


@NOISY
def test_a_named_guide_that_cannot_is_an_error_but_costs_the_others_nothing(pyrolvm, inference):
    def unsuited(made):
        raise lvm.GuideError("it needs a plate. Fix: use full_rank.")

    inference.on["amortized"] = unsuited
    run = pyrolvm("compare", "eight_schools", "--guide", "amortized", "--guide", "full_rank", "--out", "runs/a")
    assert run.code == 2
    assert "amortized: left out. it needs a plate." in run.err
    assert Path("runs/a/report.html").is_file()


@NOISY
def test_compare_without_nuts_takes_the_best_as_reference(pyrolvm, inference):
    inference.verdicts["mean_field"] = "doubtful"
    run = pyrolvm(
        "compare", "eight_schools", "--guide", "mean_field", "--guide", "full_rank", "--no-nuts", "--json", "-"
    )
    assert run.code == 0
    assert run.json["reference"] == "full_rank"


@NOISY
def test_two_guides_whose_names_look_alike_get_folders_of_their_own(pyrolvm, inference):
    guides = ["--guide", "flow:transforms=2", "--guide", "flow:transforms,=2"]
    inference.on = {}
    run = pyrolvm("compare", "eight_schools", *guides[:2], "--guide", "flow:transforms= 2", "--out", "runs/a")
    assert run.code == 0
    assert len(posteriors_in(["runs/a"])) == 3


@NOISY
def test_compare_with_one_method_reports_that_one(pyrolvm, inference):
    run = pyrolvm("compare", "eight_schools", "--guide", "full_rank", "--no-nuts")
    assert run.code == 0
    assert "nothing to compare with" in run.out and "verdict" in run.out


@NOISY
@pytest.mark.parametrize(
    ("failed", "code"), [({"nuts"}, 1), ({"full_rank"}, 0), ({"full_rank", "flow"}, 1), (set(), 0)]
)
def test_the_exit_code_of_a_comparison(pyrolvm, inference, failed, code):
    inference.verdicts |= dict.fromkeys(failed, "failed")
    assert pyrolvm("compare", "eight_schools", "--guide", "full_rank", "--guide", "flow").code == code


def test_compare_where_nothing_works(pyrolvm, inference):
    def fail(made):
        raise lvm.FitError("no start has a finite density. Fix: check the data.")

    inference.on |= dict.fromkeys(["nuts", "full_rank"], fail)
    run = pyrolvm("compare", "eight_schools", "--guide", "full_rank")
    assert run.code == 2
    assert "no method gave a posterior" in run.err and "no start has a finite density" in run.err


@NOISY
@pytest.mark.parametrize(
    ("stop", "reached"),
    [
        (interrupt_in_the_middle, {"nuts", "full_rank"}),
        (interrupt_but_return_what_was_reached, {"nuts", "full_rank", "flow"}),
    ],
)
def test_ctrl_c_in_a_comparison_keeps_what_was_reached(pyrolvm, inference, stop, reached):
    inference.on["flow"] = stop
    words = [word for guide in ("full_rank", "flow", "mixture") for word in ("--guide", guide)]
    run = pyrolvm("compare", "eight_schools", *words, "--out", "runs/a")
    assert run.code == 130
    assert json.loads(Path("runs/a/manifest.json").read_text())["content"]["status"] == "partial"
    assert set(posteriors_in(["runs/a"])) == reached
    assert Path("runs/a/report.html").is_file()
    assert pyrolvm("diagnose", "runs/a").code == 0


def test_ctrl_c_before_anything_is_reached(pyrolvm, inference):
    inference.on["nuts"] = interrupt_in_the_middle
    run = pyrolvm("compare", "eight_schools", "--out", "runs/a")
    assert run.code == 130
    assert "nothing" in run.err and "Traceback" not in run.err
