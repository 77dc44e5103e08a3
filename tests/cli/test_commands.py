"""What the commands run, print, save and return. Inference is made up; diagnosis, comparison and pages are real."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

import pyrolvm as lvm
from pyrolvm._base import writing
from pyrolvm._base.programs import key_of, programs
from pyrolvm._cli import catalogue
from pyrolvm._cli.catalogue import SHELVES
from pyrolvm._cli.runs import posteriors_in
from pyrolvm._runs.sealing import sealed

NOISY = pytest.mark.filterwarnings("default")  # the made-up posteriors may be odd; third parties may say so


def interrupt_in_the_middle(made):
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the signal should have stopped this")


def interrupt_but_return_what_was_reached(made):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        return made
    raise AssertionError("the signal should have stopped this")


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_names_everything_registered(pyrolvm):
    run = pyrolvm("list")
    assert run.code == 0 and run.err == ""
    for name in (*lvm.problems(), *lvm.guides()):
        assert name in run.out
    assert "next: pyrolvm compare" in run.out


def test_list_as_json(pyrolvm):
    found = pyrolvm("list", "--json", "-", "--quiet").json
    assert [row["name"] for row in found["guides"]] == lvm.guides()
    assert all(row["does"].endswith(".") for row in found["problems"])
    assert {row["distribution"] for row in found["problems"]} == {"pyrolvm"}


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
    assert "10 unknowns" in run.err


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


# --- compare ----------------------------------------------------------------------------------------------------------


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


def test_report_wants_two_posteriors_and_a_reference_among_them(pyrolvm, inference):
    assert pyrolvm("fit", "eight_schools", "--out", "runs/a").code == 0
    alone = pyrolvm("report", "runs/a")
    assert alone.code == 2 and "at least two" in alone.err
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


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_finds_this_installation_sound(pyrolvm):
    run = pyrolvm("doctor", "--json", "o.json")
    assert run.code == 0
    found = json.loads(Path("o.json").read_text())
    checks = {check["what"]: check for check in found["checks"]}
    assert found["broken"] == 0
    assert {"python", "torch", "numpyro", "torch devices", "ArviZ API", "guides"} <= checks.keys()
    assert "torch" in run.out


def test_doctor_clears_the_compiled_programs_when_asked(pyrolvm, monkeypatch, tmp_path):
    monkeypatch.setenv("PYROLVM_CACHE", str(tmp_path / "programs"))
    programs().put(key_of("a"), b"program")
    (tmp_path / "programs" / "mine").write_text("")
    run = pyrolvm("doctor", "--clear-cache", "--json", "-")
    assert run.code == 0 and run.json["removed"] == 1
    assert [path.name for path in (tmp_path / "programs").iterdir()] == ["mine"]
    (tmp_path / "programs").chmod(0o755)
    run = pyrolvm("doctor", "--clear-cache")
    assert run.code == 2 and "others may read or write it" in run.err and "Fix:" in run.err


@pytest.mark.parametrize("thorough", [True, False])
def test_doctor_finds_releases_that_are_not_taken(thorough, pyrolvm, monkeypatch):
    monkeypatch.setattr("pyrolvm._cli.doctor.metadata.requires", lambda name: ["rich>=999", "numpy; extra == 'all'"])
    monkeypatch.setattr("pyrolvm._cli.doctor._engines", lambda thorough: [])
    run = pyrolvm("doctor", *(["--thorough"] if thorough else []))
    assert run.code == 1 and "broken: rich" in run.out and "pip install 'rich>=999'" in " ".join(run.out.split())


def test_list_says_what_the_docstrings_say():
    """Read from the sources, since imports take seconds: the same words, none left to be imported."""
    for shelf in SHELVES:
        assert shelf.rows() == shelf.rows(imported=True)
        ours = [entry for entry in shelf.kind.entries().values() if entry.distribution == "pyrolvm"]
        assert all(catalogue._written(entry) for entry in ours)


def test_doctor_fails_where_something_required_is_broken(pyrolvm, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    run = pyrolvm("doctor")
    assert run.code == 1
    assert "broken: safetensors" in run.out


def test_a_value_of_two_dashes_is_no_value(pyrolvm):
    run = pyrolvm("exact", "eight_schools", "--out=--")
    assert run.code == 2 and "argument --out: '--' is no value" in run.err and "Fix:" in run.err


@pytest.mark.parametrize("unnamed", [True, False])
def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(unnamed, tmp_path, monkeypatch):
    if not unnamed:  # a file system without files that have no name
        monkeypatch.setattr(writing, "_unnamed", lambda folder: None)
    file, seen = tmp_path / "p.csv", []
    file.write_text("old")

    def half(opened):
        opened.write(b"ne")
        seen.extend(path.name for path in tmp_path.iterdir())
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        writing.replace_file(file, half)
    assert len(seen) == (1 if unnamed and sys.platform == "linux" else 2)
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
    writing.replace_file(file, lambda opened: opened.write(b"new"))
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]
