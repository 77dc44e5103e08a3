"""What the commands run, print, save and return. Inference is made up; diagnosis, comparison and pages are real."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._cli.runs import posteriors_in
from pyrolvm._runs.sealing import sealed
from tests.cli.interrupting import interrupt_but_return_what_was_reached, interrupt_in_the_middle

NOISY = pytest.mark.filterwarnings("default")  # the made-up posteriors may be odd; third parties may say so


# --- fit and nuts -----------------------------------------------------------------------------------------------------


def test_fit_passes_on_what_was_given_and_nothing_else(pyrolvm, inference):
    assert pyrolvm("fit", "eight_schools").code == 0
    ((name, problem, guide, options),) = inference.calls
    assert (name, problem.name, guide, options) == ("fit", "eight_schools", "auto", options)
    assert options == {"progress": False, "out": Path("runs/eight_schools-auto-1"), "resume": False, "overwrite": False}

    words = "--guide flow:transforms=2 --seed 5 --max-steps 7 --num-particles 3 --batch-size 4 --objective elbo"
    assert pyrolvm("fit", "eight_schools", *words.split(), "--engine", "pyro", "--device", "cpu").code == 0
    _, _, guide, options = inference.calls[1]
    assert (guide.name, guide.options) == ("flow", {"transforms": 2})
    assert options == {
        "progress": False,
        "seed": 5,
        "max_steps": 7,
        "num_particles": 3,
        "batch_size": 4,
        "objective": "elbo",
        "engine": "pyro",
        "device": "cpu",
        "out": Path("runs/eight_schools-flow-transforms-2-1"),
        "resume": False,
        "overwrite": False,
    }


def test_nuts_passes_on_what_was_given(pyrolvm, inference):
    words = "--chains 2 --warmup 10 --draws 20 --target-accept 0.9 --seed 1"
    run = pyrolvm("nuts", "eight_schools", *words.split())
    assert run.code == 0
    assert inference.calls[0][3] == {
        "progress": False,
        "chains": 2,
        "warmup": 10,
        "draws": 20,
        "target_accept": 0.9,
        "seed": 1,
        "out": Path("runs/eight_schools-nuts-1"),
        "resume": False,
        "overwrite": False,
    }
    assert Path("runs/eight_schools-nuts-1/manifest.json").is_file()


def test_infer_passes_on_what_was_given_and_shows_the_ladder(pyrolvm, inference):
    run = pyrolvm(
        "infer", "eight_schools", "--methods", "student,nuts", "--budget", "60", "--draws", "500", "--seed", "2"
    )
    assert run.code == 0
    options = inference.calls[0][3]
    assert {name: options[name] for name in ("budget", "draws", "seed")} == {"budget": 60.0, "draws": 500, "seed": 2}
    assert [str(method) for method in options["methods"]] == ["student", "nuts"]
    assert "student: trusted, k-hat 0.25, 0.5 s" in run.out
    assert Path("runs/eight_schools-infer-1/manifest.json").is_file()


@pytest.mark.parametrize("words", [("--methods", "flowx"), ("--budget", "0")])
def test_infer_refuses_what_it_cannot_do(pyrolvm, inference, words):
    run = pyrolvm("infer", "eight_schools", *words)
    assert run.code == 2
    assert "Fix:" in run.err
    assert not inference.calls


def test_fit_says_what_came_out_where_it_is_and_what_is_next(pyrolvm, inference):
    run = pyrolvm("fit", "eight_schools", "--guide", "full_rank", "--out", "runs/a")
    assert run.code == 0
    for part in ("1.5 s (compile 0.5, run 1.0)", "engine torch", "khat", "mu", "verdict: ", "saved in runs/a"):
        assert part in run.out
    assert "next: pyrolvm compare eight_schools" in run.out
    assert "10 unknowns" in " ".join(run.err.split())


def test_fit_with_model_data_and_guide_from_files(pyrolvm, inference, model_file):
    Path("d.csv").write_text("x,y\n1.0,2.0\n2.0,3.0\n")
    run = pyrolvm("fit", "my_model.py:model", "--data", "d.csv", "--guide", "my_model.py:guide")
    assert run.code == 0
    assert inference.calls[0][2].__name__ == "guide"
    assert Path("runs/model-my_model.py-guide-1").is_dir()
    assert "pyrolvm compare my_model.py:model --data d.csv" in run.out


def test_runs_are_numbered(pyrolvm, inference):
    for _ in range(2):
        assert pyrolvm("fit", "eight_schools", "--guide", "full_rank").code == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "eight_schools-full_rank-1",
        "eight_schools-full_rank-2",
    ]


def test_json_alone_is_on_stdout(pyrolvm, inference):
    run = pyrolvm("fit", "eight_schools", "--guide", "full_rank", "--json", "-")
    assert run.json["verdict"]["status"] == "trusted"
    assert run.json["seconds"] == {"compile": 0.5, "run": 1.0}
    assert run.json["quantities"] and run.json["saved"].startswith("runs/")
    assert "verdict" in run.err


def test_json_into_a_file(pyrolvm, inference):
    run = pyrolvm("fit", "eight_schools", "--json", "o.json")
    assert json.loads(Path("o.json").read_text())["command"] == "fit"
    assert "verdict" in run.out
    assert not list(Path().glob(".*part"))


def test_quiet_is_silent(pyrolvm, inference):
    run = pyrolvm("fit", "eight_schools", "--quiet")
    assert (run.code, run.out, run.err) == (0, "", "")


@pytest.mark.parametrize(("status", "code"), [("trusted", 0), ("doubtful", 0), ("failed", 1)])
def test_the_exit_code_is_the_verdict(pyrolvm, inference, status, code):
    inference.verdicts["full_rank"] = status
    run = pyrolvm("fit", "eight_schools", "--guide", "full_rank")
    assert run.code == code
    assert f"verdict: {status}" in run.out


def test_an_error_of_inference_is_a_message(pyrolvm, inference):
    def fail(made):
        raise lvm.FitError("the loss is not finite from step 3. Fix: check site 'tau'.")

    inference.on["full_rank"] = fail
    run = pyrolvm("fit", "eight_schools", "--guide", "full_rank")
    assert run.code == 2
    assert run.err.endswith("pyrolvm fit: the loss is not finite from step 3. Fix: check site 'tau'.\n")


def test_ctrl_c_in_a_fit_that_keeps_nothing(pyrolvm, inference):
    inference.on["auto"] = interrupt_in_the_middle
    before = signal.getsignal(signal.SIGINT)
    run = pyrolvm("fit", "eight_schools")
    assert run.code == 130
    assert "stopped" in run.err and "Traceback" not in run.err
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_a_fit_saves_what_was_reached(pyrolvm, inference):
    inference.on["auto"] = interrupt_but_return_what_was_reached
    run = pyrolvm("fit", "eight_schools", "--out", "runs/a")
    assert run.code == 130
    assert Path("runs/a/manifest.json").is_file()
    assert "stopped; what was reached is saved in runs/a" in run.err


def test_sigterm_has_its_own_code(pyrolvm, inference):
    inference.on["auto"] = lambda made: os.kill(os.getpid(), signal.SIGTERM)
    assert pyrolvm("fit", "eight_schools").code == 143


# --- where runs are saved ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "nuts", "infer", "compare"])
def test_an_existing_run_is_replaced_only_when_asked(pyrolvm, inference, command):
    words = (command, "eight_schools", "--out", "runs/a", *(["--guide", "full_rank"] if command == "compare" else []))
    assert pyrolvm(*words).code == 0
    done = len(inference.calls)
    refused = pyrolvm(*words)
    assert refused.code == 2
    assert (
        "runs/a: something is saved there already. Fix: add --resume to go on with it or use it, --overwrite"
        in refused.err
    )
    assert len(inference.calls) == done
    assert pyrolvm(*words, "--overwrite").code == 0


def test_resume_leaves_finished_runs_to_fit(pyrolvm, inference):
    assert pyrolvm("fit", "eight_schools", "--out", "runs/a").code == 0
    assert pyrolvm("fit", "eight_schools", "--out", "runs/a", "--resume").code == 0
    assert inference.calls[1][3] == {"progress": False, "out": Path("runs/a"), "resume": True, "overwrite": False}
    refused = pyrolvm("fit", "eight_schools", "--resume")
    assert refused.code == 2 and "--resume goes on with the run in --out" in refused.err
    refused = pyrolvm("fit", "eight_schools", "--any-version", "--out", "runs/a")
    assert refused.code == 2 and "--any-version says how to --resume" in refused.err


def test_resume_and_overwrite_together_use_the_same_run_and_replace_another(pyrolvm, inference):
    for words in ([], ["--resume", "--overwrite"], ["--seed", "3", "--resume", "--overwrite"]):
        assert pyrolvm("compare", "eight_schools", "--guide", "flow", "--out", "runs/a", *words).code == 0
        assert sorted(posteriors_in(["runs/a"])) == ["flow", "nuts"]
    assert sum(call[0] == "fit" for call in inference.calls) == 3


def test_overwrite_replaces_nothing_that_is_no_run(pyrolvm, inference):
    Path("thesis").mkdir()
    Path("thesis/chapter.tex").write_text("years of work")
    run = pyrolvm("compare", "eight_schools", "--out", "thesis", "--overwrite")
    assert run.code == 2 and "no run of pyrolvm" in run.err
    assert Path("thesis/chapter.tex").read_text() == "years of work"


def test_overwriting_a_comparison_leaves_files_of_others(pyrolvm, inference):
    assert pyrolvm("compare", "eight_schools", "--out", "runs/a", "--guide", "full_rank").code == 0
    Path("runs/a/notes.txt").write_text("mine")
    assert pyrolvm("compare", "eight_schools", "--out", "runs/a", "--guide", "flow", "--overwrite").code == 0
    assert Path("runs/a/notes.txt").read_text() == "mine"
    assert sorted(posteriors_in(["runs/a"])) == ["flow", "nuts"]
    kept = sorted(path.name for path in Path("runs/a").glob("*/posteriors/*"))
    assert kept == ["flow", "nuts"]  # and nothing of the comparison before


@pytest.mark.parametrize("out", ["../x", "runs/../../x", "runs/a b", "runs/.hidden", "runs/" + "x" * 101, "..", "/"])
def test_run_names_stay_in_their_place(pyrolvm, inference, out):
    run = pyrolvm("fit", "eight_schools", "--out", out)
    assert run.code == 2
    assert "no place for a run" in run.err and "Fix: " in run.err
    assert inference.calls == []


def test_an_absolute_path_is_a_place(pyrolvm, inference, tmp_path):
    assert pyrolvm("fit", "eight_schools", "--out", str(tmp_path / "deep" / "a")).code == 0
    assert (tmp_path / "deep" / "a" / "manifest.json").is_file()


# --- saved runs -------------------------------------------------------------------------------------------------------


@NOISY
def test_diagnose_and_report_read_what_was_saved(pyrolvm, inference):
    assert pyrolvm("fit", "eight_schools", "--guide", "full_rank", "--out", "runs/a").code == 0
    assert pyrolvm("nuts", "eight_schools", "--out", "runs/nuts").code == 0
    one = pyrolvm("diagnose", "runs/a", "--json", "-")
    assert one.code == 0 and one.json["posteriors"]["a"]["verdict"]["status"] == "trusted"
    report = pyrolvm("report", "runs/a", "runs/nuts", "--out", "pages/r.html")
    assert report.code == 0
    assert Path("pages/r.html").is_file() and Path("pages/r.png").is_file()
    again = pyrolvm("report", "runs/a", "runs/nuts", "--out", "pages/r.html")
    assert again.code == 2 and "exists already" in again.err
    assert pyrolvm("report", "runs/a", "runs/nuts", "--out", "pages/r.html", "--overwrite").code == 0


@NOISY
def test_a_comparison_is_diagnosed_and_reported_whole(pyrolvm, inference):
    assert pyrolvm("compare", "eight_schools", "--guide", "full_rank", "--out", "runs/a").code == 0
    assert set(pyrolvm("diagnose", "runs/a", "--json", "-").json["posteriors"]) == {"nuts", "full_rank"}
    report = pyrolvm("report", "runs/a", "runs/a", "--reference", "nuts", "--json", "-")
    assert report.json["reference"] == "nuts"
    assert {row["method"] for row in report.json["methods"]} == {"nuts", "full_rank", "nuts (2)", "full_rank (2)"}


def test_diagnose_returns_the_verdict(pyrolvm, inference):
    inference.verdicts["full_rank"] = "failed"
    assert pyrolvm("fit", "eight_schools", "--guide", "full_rank", "--out", "runs/a").code == 1
    assert pyrolvm("diagnose", "runs/a").code == 1


def test_report_takes_one_run_or_several_and_a_reference_among_them(pyrolvm, inference, monkeypatch):
    assert pyrolvm("fit", "eight_schools", "--out", "runs/a").code == 0
    written = []
    monkeypatch.setattr(lvm, "report", lambda found, path: written.append((found.name, path)) or path.write_text("<p>"))
    alone = pyrolvm("report", "runs/a", "--out", "a.html")
    assert alone.code == 0 and [str(path) for _, path in written] == ["a.html"] and "a.html" in alone.out
    again = pyrolvm("report", "runs/a", "--out", "a.html")
    assert again.code == 2 and "exists already" in again.err and len(written) == 1
    unknown = pyrolvm("report", "runs/a", "runs/a", "--reference", "b")
    assert unknown.code == 2 and "saved posterior" in unknown.err


@NOISY
@pytest.mark.parametrize("folder", ["../../secret", "/etc", "..", ".git", "posteriors/nuts", 3, None])
def test_a_run_folder_cannot_point_out_of_itself(pyrolvm, inference, folder):
    assert pyrolvm("compare", "eight_schools", "--guide", "full_rank", "--out", "runs/a").code == 0
    (names,) = Path("runs/a").glob("*/posteriors.json")
    names.write_bytes(sealed({"nuts": folder}, 1))
    run = pyrolvm("diagnose", "runs/a")
    assert run.code == 2 and "no finished posterior" in run.err


@NOISY
@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param(file, content, marks=[] if place == number else [pytest.mark.slow])
        for number, file in enumerate(["posteriors.json", "manifest.json", "pyrolvm-run.json"])
        for place, content in enumerate(["[" * 100_000, "[]", "", "{", '{"nuts": '])
    ],
)
def test_a_damaged_run_folder_is_named(pyrolvm, inference, file, content):
    assert pyrolvm("compare", "eight_schools", "--guide", "full_rank", "--out", "runs/a").code == 0
    (path,) = [found for found in Path("runs/a").rglob(file) if "posteriors/" not in str(found)]
    path.write_text(content)
    for words in (["report", "runs/a", "runs/a"], ["compare", "eight_schools", "--out", "runs/a", "--resume"]):
        run = pyrolvm(*words)
        if file == "pyrolvm-run.json" and words[0] == "report":  # to read it, it is not needed
            assert run.code == 0
        elif run.code:
            assert run.code == 2 and "runs/a" in run.err and "Traceback" not in run.err


def test_evidence_is_kept_gone_on_with_and_diagnosed(pyrolvm, model_file):
    words = ("evidence", f"{model_file}:problem", "--method", "prior,exact", "--draws", "50", "--out", "runs/e")
    first = pyrolvm(*words, "--json", "-")
    assert first.code == 0 and "saved in runs/e" in first.err
    assert "--resume" in pyrolvm(*words).err
    assert pyrolvm(*words, "--resume", "--json", "-").json["methods"] == first.json["methods"]
    shown = pyrolvm("diagnose", "runs/e", "--json", "-")
    assert shown.code == 0 and shown.json["methods"].keys() == {"prior", "exact"}
    assert "has no posterior" in pyrolvm("report", "runs/e", "runs/e").err
