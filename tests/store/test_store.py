"""Saved results: the same after reading, refused where damaged, never half written, never unpickled."""

from __future__ import annotations

import builtins
import functools
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._runs.sealing import sealed

Y = torch.tensor([0.3, 1.1, -0.4, 0.9])


def model(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 3.0))
    scale = pyro.sample("scale", dist.LogNormal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, scale), obs=y)


def conjugate(y: Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def by_hand(y: Tensor) -> None:
    loc = pyro.param("loc", lambda: torch.zeros(2))
    sd = pyro.param("sd", lambda: torch.full((2,), 0.3), constraint=dist.constraints.positive)
    pyro.sample("mean", dist.Normal(loc[0], sd[0]))
    pyro.sample("scale", dist.LogNormal(loc[1], sd[1]))


SHORT: dict[str, Any] = {"max_steps": 15, "draws": 120, "progress": False}
FEW: dict[str, Any] = {"chains": 2, "warmup": 10, "draws": 15, "progress": False}

MAKE: dict[str, Callable[[], Any]] = {
    "registered fit": lambda: lvm.fit(lvm.problem("eight_schools"), "mean_field", **SHORT),
    "fit with options": lambda: lvm.fit(lvm.problem("eight_schools"), lvm.guide("low_rank", rank=2), **SHORT),
    "float64 fit": lambda: lvm.fit(lvm.problem("eight_schools"), "full_rank", dtype=torch.float64, **SHORT),
    "custom fit": lambda: lvm.fit(lvm.Problem(model, Y), by_hand, **SHORT),
    "registered chains": lambda: lvm.nuts(lvm.problem("eight_schools"), **FEW),
    "custom chains": lambda: lvm.nuts(lvm.Problem(model, Y), **FEW),
}


@functools.cache
def result(kind: str) -> Any:
    return MAKE[kind]()


@pytest.fixture
def fit() -> lvm.Fit:
    return result("custom fit")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result("custom fit").save(tmp_path_factory.mktemp("original") / "run")  # type: ignore[no-any-return]


@pytest.fixture
def saved(original: Path, tmp_path: Path) -> Path:
    """A saved fit of one's own to damage."""
    return shutil.copytree(original, tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def file_of(folder: Path, stem: str) -> Path:
    return next(path for path in folder.rglob("*") if path.is_file() and path.name.startswith(stem))


def entry_of(folder: Path, path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    name = str(path.relative_to(folder))
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def replaced(folder: Path, **entries: Any) -> None:
    """Puts other entries into the manifest."""
    manifest = runs.Manifest.read(folder)
    assert manifest is not None
    (folder / runs.MANIFEST).write_bytes(replace(manifest, files={**manifest.files, **entries}).content)


@pytest.mark.parametrize("kind", MAKE)
def test_what_is_loaded_is_what_was_saved(kind: str, tmp_path: Path) -> None:
    made = result(kind)
    made.save(tmp_path / "run")
    options: dict[str, Any] = {}
    if kind.startswith("custom"):
        options["problem"] = lvm.Problem(model, Y)
    if kind == "custom fit":
        options["guide"] = by_hand
    loaded = lvm.load(tmp_path / "run", **options)
    assert type(loaded) is type(made)
    assert loaded.data.identical(made.data)
    assert loaded.verdict == made.verdict
    assert (loaded.name, loaded.engine, loaded.engine_reason, loaded.seed) == (
        made.name, made.engine, made.engine_reason, made.seed
    )  # fmt: skip
    assert dict(loaded.seconds) == dict(made.seconds)
    assert loaded.params.keys() == made.params.keys()
    for name, value in made.params.items():
        assert torch.equal(loaded.params[name], value), name
        assert loaded.params[name].dtype == value.dtype
    assert loaded.sample(6, seed=9).equals(made.sample(6, seed=9))
    if isinstance(made, lvm.Fit):
        assert loaded.losses.tolist() == made.losses.tolist()
        assert (loaded.converged, loaded.stop_reason, loaded.elbo) == (made.converged, made.stop_reason, made.elbo)
        assert loaded.evidence == made.evidence


def test_a_float64_fit_of_a_float32_problem_samples_alike_after_loading(tmp_path: Path) -> None:
    made = result("float64 fit")
    made.save(tmp_path / "run")
    for options in ({}, {"problem": lvm.problem("eight_schools"), "guide": "full_rank"}):
        drawn = lvm.load(tmp_path / "run", **options).sample(6, seed=9)
        assert str(drawn["mu"].dtype) == "float64"
        assert drawn.equals(made.sample(6, seed=9))


def test_a_float64_fit_of_a_float32_problem_can_be_resumed(tmp_path: Path) -> None:
    first = run_fit(tmp_path / "run", guide="mean_field", dtype=torch.float64)
    again = run_fit(tmp_path / "run", guide="mean_field", dtype=torch.float64, resume=True)
    assert again.data.identical(first.data)


def test_saving_what_was_loaded_changes_nothing(fit: lvm.Fit, saved: Path, tmp_path: Path) -> None:
    lvm.load(saved).save(tmp_path / "again")
    again = lvm.load(tmp_path / "again", problem=fit.problem, guide=by_hand)
    assert again.data.identical(fit.data)


def test_without_its_problem_a_result_can_be_read_but_not_run(fit: lvm.Fit, saved: Path) -> None:
    loaded = lvm.load(saved)
    assert loaded.problem is None
    assert loaded.data.identical(fit.data)
    assert loaded.verdict == fit.verdict
    with pytest.raises(lvm.StoreError, match=r"without its problem.*Fix: lvm.load"):
        loaded.sample(3)
    with pytest.raises(lvm.StoreError, match=r"without its guide.*Fix: lvm.load"):
        lvm.load(saved, problem=fit.problem).sample(3)


def test_other_data_are_refused(saved: Path) -> None:
    other = Y.clone()
    other[0] += 1e-6
    with pytest.raises(lvm.StoreError, match=r"other data.*Fix:"):
        lvm.load(saved, problem=lvm.Problem(model, other))


def test_another_guide_is_refused_when_it_draws(fit: lvm.Fit, saved: Path) -> None:
    def wider(y: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.zeros(3))
        pyro.sample("mean", dist.Normal(loc[0], 0.3))
        pyro.sample("scale", dist.LogNormal(loc[1], 0.3))

    with pytest.warns(lvm.PyrolvmWarning, match="another guide code"):
        found = lvm.load(saved, problem=fit.problem, guide=wider)
    with pytest.raises(lvm.StoreError, match="'loc' has shape"):
        found.sample(3)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["data", "params", "meta", "manifest"])
@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_a_damaged_file_is_refused(saved: Path, stem: str, where: float, how: str) -> None:
    path = file_of(saved, stem)
    content = bytearray(path.read_bytes())
    position = int(where * (len(content) - 1))
    if how == "flip":
        content[position] ^= 0x80
    else:
        del content[position:]
    path.write_bytes(bytes(content))
    with pytest.raises(lvm.StoreError, match="Fix:"):
        lvm.load(saved)


@pytest.mark.parametrize("stem", ["data", "params", "meta", "manifest"])
def test_a_missing_file_is_refused(saved: Path, stem: str) -> None:
    file_of(saved, stem).unlink()
    with pytest.raises(lvm.StoreError, match="Fix:"):
        lvm.load(saved)


def test_a_class_of_the_users_with_a_name_of_ours_does_not_change_what_is_loaded(saved: Path) -> None:
    type("Fit", (lvm.Posterior,), {})
    assert type(lvm.load(saved)) is lvm.Fit


def test_no_result_is_no_result(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(lvm.StoreError, match=r"no saved result.*Fix:"):
            lvm.load(path)


@pytest.mark.parametrize(
    "content", [{}, {"kind": "Posterior"}, {"files": 3}, {"files": {"data": 3}}, {"number": "x"}, {"status": "?"}]
)
def test_a_sealed_manifest_of_other_content_is_refused(saved: Path, content: dict[str, Any]) -> None:
    whole = json.loads((saved / runs.MANIFEST).read_text())["content"]
    (saved / runs.MANIFEST).write_bytes(
        sealed({**whole, **content} if len(content) == 1 and "kind" not in content else content, 2)
    )
    with pytest.raises(lvm.StoreError, match="Fix:"):
        lvm.load(saved)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "3", "null", '{"schema": 2}', '{"schema": 2, "content": []}', '{"schema": 99, "content": {}}', "{" * 5000,
    ],
)  # fmt: skip
def test_a_manifest_of_other_shape_is_refused(saved: Path, content: str) -> None:
    (saved / runs.MANIFEST).write_text(content)
    with pytest.raises(lvm.StoreError, match="Fix:"):
        lvm.load(saved)


@pytest.mark.parametrize(
    "name", ["../outside.nc", "/etc/hostname", "sub/data.nc", "1/../../outside.nc", "link/outside.nc", "a/b/c", ""]
)
def test_a_manifest_cannot_point_elsewhere(saved: Path, name: str) -> None:
    (saved.parent / "outside.nc").write_bytes(file_of(saved, "data").read_bytes())
    (saved / "link").symlink_to(saved.parent)
    replaced(saved, data=entry_of(saved.parent, saved.parent / "outside.nc") | {"name": name})
    with pytest.raises(lvm.StoreError, match="lacks its file"):
        lvm.load(saved)


def test_a_meta_file_of_other_shape_is_refused(saved: Path) -> None:
    """A file that is whole by its checksum, but is not what this version writes."""
    for content in ("{}", '{"kind": "Fit"}', '{"kind": "Oracle"}', '{"kind": "Fit", "problem": 3}'):
        meta = saved / "meta-other.json"
        meta.write_text(content)
        replaced(saved, meta=entry_of(saved, meta))
        with pytest.raises(lvm.StoreError, match="Fix:"):
            lvm.load(saved)


@pytest.mark.parametrize(("bound", "says"), [("readers.JSON_BYTES", "expected at most"), ("trees.GROWTH", "are free")])
def test_files_that_are_whole_are_held_to_the_bounds_too(
    saved: Path, bound: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = runs.Manifest.read(saved)
    monkeypatch.setattr(runs.Manifest, "read", lambda _: found)
    monkeypatch.setattr(f"pyrolvm._runs.{bound}", 10 if "BYTES" in bound else 1e15)
    with pytest.raises(lvm.StoreError, match=rf"{says}.*Fix:"):
        lvm.load(saved)


# --- overwriting and crashes ------------------------------------------------------------------------------------------


def test_a_result_is_not_overwritten_unasked(fit: lvm.Fit, saved: Path) -> None:
    before = files(saved)
    with pytest.raises(lvm.StoreError, match=r"holds a result already.*overwrite=True"):
        fit.save(saved)
    assert files(saved) == before


def test_overwriting_leaves_no_old_files(saved: Path) -> None:
    other = result("custom chains")
    other.save(saved, overwrite=True)
    loaded = lvm.load(saved)
    assert isinstance(loaded, lvm.Chains)
    assert loaded.data.identical(other.data)
    kinds = sorted(Path(name).name.split("-")[0] for name in files(saved))
    assert kinds == ["data", "manifest.json", "meta", "names.log", "params", "pyrolvm"]


def test_foreign_folders_and_files_are_left_alone(fit: lvm.Fit, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.txt").write_text("draft")
    with pytest.raises(lvm.StoreError, match="not empty"):
        fit.save(folder)
    with pytest.raises(lvm.StoreError, match=r"not made by pyrolvm.*left as it is"):
        fit.save(folder, overwrite=True)
    assert files(folder) == {"thesis.txt": b"draft"}
    with pytest.raises(lvm.StoreError, match="is a file"):
        fit.save(folder / "thesis.txt")


@pytest.mark.parametrize(
    ("write", "error", "told"),
    [*((write, KeyboardInterrupt, KeyboardInterrupt) for write in range(4)), (1, OSError, lvm.StoreError)],
)
def test_a_crash_at_any_file_leaves_the_old_result(
    fit: lvm.Fit,
    saved: Path,
    write: int,
    error: type[BaseException],
    told: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """os.rename is what makes a file appear: fail at each of the four."""
    calls = {"n": -1}
    real = os.rename

    def failing(source: Any, target: Any, **folders: Any) -> None:
        calls["n"] += 1
        if calls["n"] == write:
            raise error("power cut")
        real(source, target, **folders)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(told, match="power cut"):
            result("custom chains").save(saved, overwrite=True)
    loaded = lvm.load(saved)
    assert isinstance(loaded, lvm.Fit)
    assert loaded.data.identical(fit.data)
    assert not [name for name in files(saved) if ".part" in name]
    result("custom chains").save(saved, overwrite=True)
    assert isinstance(lvm.load(saved), lvm.Chains)


def test_a_crash_of_the_first_save_leaves_nothing_that_looks_like_a_result(
    fit: lvm.Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(lvm.StoreError, match="disk full"):
            fit.save(tmp_path / "run")
    with pytest.raises(lvm.StoreError, match="no saved result"):
        lvm.load(tmp_path / "run")


# --- safety -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["custom fit", "registered chains"])
def test_nothing_is_unpickled(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = result(kind)
    made.save(tmp_path / "run")

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a saved result must not be unpickled")

    with monkeypatch.context() as patch:
        for owner, name in (
            (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (builtins, "eval"), (builtins, "exec"),
        ):  # fmt: skip
            patch.setattr(owner, name, forbidden)
        loaded = lvm.load(tmp_path / "run", problem=made.problem, guide=by_hand if kind == "custom fit" else None)
    assert loaded.data.identical(made.data)


def test_files_are_of_the_formats_they_claim(saved: Path) -> None:
    assert file_of(saved, "data").read_bytes()[:8] == b"\x89HDF\r\n\x1a\n"
    header = file_of(saved, "params").read_bytes()
    assert json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert json.loads(file_of(saved, "meta").read_text())["kind"] == "Fit"
    for content in files(saved).values():
        assert not content.startswith((b"\x80\x04", b"\x80\x05", b"PK"))


def test_nothing_is_imported_because_a_file_names_it(saved: Path) -> None:
    meta_path = file_of(saved, "meta")
    meta = json.loads(meta_path.read_text())
    meta["problem"]["source"] = {"name": "antigravity:main", "options": {}}
    meta["guide"] |= {"name": "this:s", "options": {}}
    meta_path.write_text(json.dumps(meta))
    replaced(saved, meta=entry_of(saved, meta_path))
    import sys

    loaded = lvm.load(saved)
    assert loaded.problem is None
    assert loaded.guide is None
    assert "antigravity" not in sys.modules
    assert "this" not in sys.modules


# --- out= and resume= -------------------------------------------------------------------------------------------------


def run_fit(out: Path, **options: Any) -> lvm.Fit:
    return lvm.fit(lvm.Problem(model, options.pop("y", Y)), options.pop("guide", by_hand), out=out, **(SHORT | options))


def run_nuts(out: Path, **options: Any) -> lvm.Chains:
    return lvm.nuts(lvm.Problem(model, options.pop("y", Y)), out=out, **(FEW | options))


@pytest.mark.parametrize("run", [run_fit, run_nuts])
def test_out_saves_and_resume_returns_it(run: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    first = run(out, seed=2)
    before = files(out)
    with pytest.raises(lvm.StoreError, match=r"resume=True"):
        run(out, seed=2)
    again = run(out, seed=2, resume=True)
    assert again.data.identical(first.data)
    assert files(out) == before
    assert again.sample(3).equals(first.sample(3))


@pytest.mark.parametrize("run", [run_fit, run_nuts])
def test_resume_of_other_inputs_is_refused(run: Callable[..., Any], tmp_path: Path) -> None:
    run(tmp_path / "run", seed=2)
    with pytest.raises(lvm.StoreError, match=r"another seed: 2, now 3"):
        run(tmp_path / "run", seed=3, resume=True)
    with pytest.raises(lvm.StoreError, match="another data"):
        run(tmp_path / "run", seed=2, y=Y + 1, resume=True)


def test_resume_of_another_method_is_refused(tmp_path: Path) -> None:
    run_fit(tmp_path / "run")
    with pytest.raises(lvm.StoreError, match=r"made by 'fit', not by 'nuts'"):
        run_nuts(tmp_path / "run", resume=True)
    with pytest.raises(lvm.StoreError, match="another guide"):
        run_fit(tmp_path / "run", guide="mean_field", resume=True)


def test_resume_takes_no_result_of_another_method_for_its_own(tmp_path: Path) -> None:
    """Neither has a guide, and the rest of their inputs is the same."""
    lvm.exact(lvm.Problem(conjugate, Y), seed=2, out=tmp_path / "exact", progress=False)
    with pytest.raises(lvm.StoreError, match=r"made by 'exact', not by 'nuts'"):
        lvm.nuts(lvm.Problem(conjugate, Y), seed=2, out=tmp_path / "exact", resume=True, progress=False)


def test_resume_without_anything_there_runs(tmp_path: Path) -> None:
    assert len(run_fit(tmp_path / "run", resume=True).losses) == 15
    assert (tmp_path / "run" / runs.MANIFEST).is_file()


def test_resume_of_an_interrupted_fit_runs_again(tmp_path: Path) -> None:
    def interrupt(step: Any) -> None:
        if step.step == 4:
            raise KeyboardInterrupt

    cut = run_fit(tmp_path / "run", callbacks=[interrupt])
    assert len(cut.losses) == 5
    assert len(lvm.load(tmp_path / "run").losses) == 5
    whole = run_fit(tmp_path / "run", resume=True)
    assert len(whole.losses) == 15
    assert whole.losses[:5].tolist() == cut.losses.tolist()
    assert len(lvm.load(tmp_path / "run").losses) == 15


def test_resume_of_a_damaged_result_says_so(tmp_path: Path) -> None:
    run_fit(tmp_path / "run")
    path = file_of(tmp_path / "run", "data")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(lvm.StoreError, match="damaged"):
        run_fit(tmp_path / "run", resume=True)


def test_a_problem_with_a_module_among_its_data_finds_its_results(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)

    def model(x: Tensor, decoder: torch.nn.Module) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    x = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)
    fit = lvm.fit(lvm.Problem(model, x, network), "mean_field", max_steps=5, draws=8, progress=False)
    fit.save(tmp_path / "run")
    loaded = lvm.load(tmp_path / "run", problem=lvm.Problem(model, x, network))
    assert loaded.data["posterior"].equals(fit.data["posterior"])
