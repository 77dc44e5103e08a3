"""What resume and overwrite mean, whatever runs: go on, use, replace, or refuse with the word that is meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import PyrolvmWarning
from pyrolvm._methods.infer import inference

Y = torch.tensor([0.3, 1.1, -0.4])


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def funnel(y: torch.Tensor) -> None:
    scale = pyro.sample("scale", dist.Normal(0.0, 3.0))
    x = pyro.sample("x", dist.Normal(torch.zeros(3), (scale / 2).exp()).to_event(1))
    pyro.sample("y", dist.Normal(x, 3.0).to_event(1), obs=y)


def rows(x: torch.Tensor) -> None:
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * torch.tensor([1.0, 0.5]), 0.7).to_event(1), obs=x)


def problem() -> lvm.Problem:
    return lvm.Problem(model, Y)


TEXT: runs.Codec[str] = runs.Codec(
    "Text",
    lambda text: {"text": (".txt", lambda file: file.write(text.encode()))},
    lambda folder: runs.verified(folder, ("text",))["text"].content.decode(),
    lambda text: text.endswith("..."),
)


def write(out: Path, text: str, about: str = "a", command: str = "write", **words: Any) -> str:
    return runs.run(runs.order(out, **words), command, {"what": about}, TEXT, lambda run: text)


def fails(run: runs.Run | None) -> str:
    raise RuntimeError("power cut")


def goes_on(run: runs.Run | None) -> str:
    """Counts how often it was begun, and fails twice."""
    assert run is not None
    found = run.checkpoints.read()
    times = 1 if found is None else found.state["times"] + 1
    run.checkpoints.write({"times": times}) if found is None else _again(run, times)
    if times < 3:
        raise RuntimeError("power cut")
    return f"{times} times"


def _again(run: runs.Run, times: int) -> None:
    kept = run.checkpoints
    kept.read()
    kept.write({"times": times})


def test_the_four_ways_of_meeting_a_result(tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert write(out, "one") == "one" and TEXT.read(out) == "one"
    with pytest.raises(lvm.StoreError, match=r"holds a result already.*resume=True.*overwrite=True"):
        write(out, "two")
    assert write(out, "two", resume=True) == "one"
    with pytest.raises(lvm.StoreError, match=r"another what: a, now b.*overwrite=True"):
        write(out, "two", about="b", resume=True)
    with pytest.raises(lvm.StoreError, match=r"made by 'write', not by 'draw'.*overwrite=True"):
        write(out, "two", command="draw", resume=True)
    assert write(out, "two", about="b", resume=True, overwrite=True) == "two" and TEXT.read(out) == "two"
    assert write(out, "three", about="b", resume=True, overwrite=True) == "two"
    assert write(out, "three", about="b", overwrite=True) == "three" and TEXT.read(out) == "three"


def test_a_run_that_was_cut_goes_on_is_begun_anew_or_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "r"

    def count(**words: Any) -> str:
        return runs.run(runs.order(out, **words), "count", {"what": "a"}, TEXT, goes_on)

    with pytest.raises(RuntimeError):
        count()
    with pytest.raises(lvm.StoreError, match=r"a run that did not end.*resume=True.*overwrite=True"):
        count()
    with pytest.raises(lvm.StoreError, match=r"another what: a, now b"):
        write(out, "x", about="b", command="count", resume=True)
    with pytest.raises(RuntimeError):
        count(resume=True)
    with pytest.raises(RuntimeError):
        count(overwrite=True)  # from the start
    with pytest.raises(RuntimeError):
        count(resume=True)
    assert count(resume=True) == "3 times" and TEXT.read(out) == "3 times"
    assert sorted(path.name.partition("-")[0] for path in out.iterdir()) == ["2", "manifest.json", "pyrolvm"]


def test_what_is_in_force_stays_until_the_new_run_is_finished(tmp_path: Path) -> None:
    out, seen = tmp_path / "r", []
    write(out, "old")

    def new(run: runs.Run | None) -> str:
        seen.append(TEXT.read(out))
        return "new"

    runs.run(runs.order(out, overwrite=True), "write", {"what": "b"}, TEXT, new)
    assert seen == ["old"] and TEXT.read(out) == "new"
    with pytest.raises(RuntimeError):
        runs.run(runs.order(out, overwrite=True), "write", {"what": "c"}, TEXT, fails)
    assert TEXT.read(out) == "new"
    assert write(out, "stopped...", about="d", overwrite=True) == "stopped..."  # partial: it replaces nothing
    assert TEXT.read(out) == "new"
    assert write(out, "whole", about="d", resume=True) == "whole" and TEXT.read(out) == "whole"


def test_a_partial_result_is_there_where_no_finished_one_is(tmp_path: Path) -> None:
    out = tmp_path / "r"
    write(out, "half...")
    assert TEXT.read(out) == "half..."
    with pytest.raises(lvm.StoreError, match=r"a run that did not end.*resume=True"):
        write(out, "whole")
    assert write(out, "whole", resume=True) == "whole" and TEXT.read(out) == "whole"


def test_a_run_has_more_folders_than_a_process_may_open(tmp_path: Path) -> None:
    def work(run: runs.Run | None) -> str:
        assert run is not None
        for n in range(200):
            run.generation.write(f"cells/{n}/result/a", lambda file, n=n: file.write(b"%d" % n))  # type: ignore[misc]
        return "done"

    before = len(os.listdir("/proc/self/fd"))
    found = []
    text: runs.Codec[str] = runs.Codec(
        "Text", lambda text: found.append(len(os.listdir("/proc/self/fd"))) or {}, lambda _: "read"
    )
    runs.run(runs.order(tmp_path / "r"), "write", {}, text, work)
    assert found[0] - before < 30 and len(os.listdir("/proc/self/fd")) <= before
    assert [path.read_text() for path in tmp_path.glob("r/*/cells/199/result/a")] == ["199"]
    write(tmp_path / "r", "new", overwrite=True)
    assert len(list((tmp_path / "r").iterdir())) == 3 and not list(tmp_path.rglob("cells"))


@pytest.mark.parametrize("word", ["resume", "overwrite"])
def test_a_damaged_manifest_is_a_circle_no_longer(word: str, tmp_path: Path) -> None:
    out = tmp_path / "r"
    write(out, "one")
    (out / runs.MANIFEST).write_text("{")
    with pytest.raises(lvm.StoreError, match=r"manifest.json.*damaged.*Fix: .*move it away.*resume=True"):
        write(out, "two", **{word: True})
    (out / runs.MANIFEST).rename(tmp_path / "away")
    assert write(out, "two", **{word: True}) == "two" == TEXT.read(out)


def test_other_versions_are_refused_unless_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "r"

    def under(version: str, work: Callable[[runs.Run | None], str], **words: Any) -> str:
        return runs.run(runs.order(out, **words), "count", {"version of torch": version}, TEXT, work)

    with pytest.raises(RuntimeError):
        under("1", goes_on)
    with pytest.raises(lvm.StoreError, match=r"another version of torch: 1, now 2.*any-version"):
        under("2", goes_on, resume=True)
    with pytest.warns(PyrolvmWarning, match="another version of torch"), pytest.raises(RuntimeError):
        under("2", goes_on, resume="any-version")
    assert under("2", lambda _: "anew", resume=True, overwrite=True) == "anew"
    assert under("3", lambda _: "again", resume=True) == "anew"  # what is finished is read under any


def test_a_result_that_was_saved_by_hand_is_no_run(tmp_path: Path) -> None:
    lvm.exact(problem(), draws=20, progress=False).save(tmp_path / "r")
    with pytest.raises(lvm.StoreError, match=r"made by 'save', not by 'exact'.*overwrite=True"):
        lvm.exact(problem(), draws=20, progress=False, out=tmp_path / "r", resume=True)
    assert lvm.exact(problem(), draws=20, progress=False, out=tmp_path / "r", overwrite=True).num_draws == 20


def test_exact_draws_are_those_that_are_asked_for(tmp_path: Path) -> None:
    lvm.exact(problem(), draws=20, progress=False, out=tmp_path / "r")
    with pytest.raises(lvm.StoreError, match="another draws: 20, now 50"):
        lvm.exact(problem(), draws=50, progress=False, out=tmp_path / "r", resume=True)


CALLS: dict[str, Callable[..., Any]] = {
    "fit": lambda **words: lvm.fit(problem(), **words), "nuts": lambda **words: lvm.nuts(problem(), **words),
    "exact": lambda **words: lvm.exact(problem(), **words), "infer": lambda **words: lvm.infer(problem(), **words),
    "evidence": lambda **words: lvm.evidence(problem(), **words), "sweep": lambda **words: lvm.sweep(problem(), **words),
    "calibrate": lambda **words: lvm.calibrate(problem(), **words),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("word", ["resume", "overwrite"])
def test_words_about_a_folder_need_one(call: str, word: str) -> None:
    with pytest.raises(lvm.ArgumentError, match=rf"{word} is given without out"):
        CALLS[call](progress=False, **{word: True})
    with pytest.raises(lvm.ArgumentError, match=rf"{word} must be True"):
        CALLS[call](progress=False, out="x", **{word: "yes"})


def test_infer_does_not_run_a_method_again_that_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = inference.fit, []

    def fit(given: Any, method: Any, **words: Any) -> Any:
        asked.append(method)
        if method == "student" and not words["out"].parent.parent.joinpath("twice").exists():
            words["out"].parent.parent.joinpath("twice").touch()
            raise KeyboardInterrupt
        return real(given, method, **words)

    options: dict[str, Any] = {"methods": ["mean_field", "student"], "draws": 200, "progress": False}
    whole = lvm.infer(lvm.Problem(funnel, Y), **options)
    monkeypatch.setattr(inference, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        lvm.infer(lvm.Problem(funnel, Y), out=tmp_path / "r", **options)
    steps: list[int] = []
    monkeypatch.setattr("pyrolvm._methods.fit.inference.search", lambda *_, **__: steps.append(1))
    found = lvm.infer(lvm.Problem(funnel, Y), out=tmp_path / "r", resume=True, **options)
    assert asked == ["mean_field", "student"] * 2 and not steps
    assert found.data["posterior"].equals(whole.data["posterior"])
    assert [rung["method"] for rung in found.ladder] == [rung["method"] for rung in whole.ladder]
    assert not list((tmp_path / "r").rglob("stages"))


def test_an_estimate_of_the_evidence_is_loaded_as_it_was(tmp_path: Path) -> None:
    made = lvm.evidence(problem(), ["prior", "ais", "exact"], draws=64, progress=False, out=tmp_path / "r")
    found = lvm.load(tmp_path / "r")
    assert found.as_dict() == made.as_dict() and found.exact == made.exact
    assert str(found) == str(made) and found["ais"].trace.equals(made["ais"].trace)
    one = lvm.evidence(problem(), "prior", draws=64, progress=False, out=tmp_path / "one")
    assert lvm.load(tmp_path / "one") == one and lvm.load(tmp_path / "one").verdict == one.verdict
    assert lvm.evidence(problem(), "prior", draws=64, progress=False, out=tmp_path / "one", resume=True) == one
    with pytest.raises(lvm.StoreError, match="another draws: 64, now 65"):
        lvm.evidence(problem(), "prior", draws=65, progress=False, out=tmp_path / "one", resume=True)


def test_gaps_are_loaded_as_they_were(tmp_path: Path) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    guide = lvm.guide("mean_field", precondition="none")
    fit = lvm.fit(lvm.Problem(rows, x), guide, max_steps=10, draws=20, progress=False)
    made = lvm.gaps(fit, draws=20, steps=10, progress=False, out=tmp_path / "r")
    found = lvm.load(tmp_path / "r")
    assert found.as_dict() == made.as_dict() and str(found) == str(made)
    assert found.table.equals(made.table) and found.refinement.equals(made.refinement)
    again = lvm.gaps(fit, draws=20, steps=10, progress=False, out=tmp_path / "r", resume=True)
    assert again.table.equals(made.table)
