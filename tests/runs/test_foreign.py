"""Nothing that is not ours is changed, whatever its name, wherever it lies, whichever command is run in whichever mode."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._cli import main

Y = torch.tensor([0.3, 1.1, -0.4])


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def drawn(problem: Any, seed: int) -> dict[str, torch.Tensor]:
    return {"mean": torch.randn(20, generator=torch.Generator().manual_seed(seed))}


def factors(x: torch.Tensor) -> None:
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] * torch.tensor([1.0, 0.5]), 0.7).to_event(1), obs=x)


def _problem() -> lvm.Problem:
    return lvm.Problem(model, Y)


@functools.cache
def _fitted() -> lvm.Fit:
    problem = lvm.Problem(factors, torch.randn(12, 2, generator=torch.Generator().manual_seed(0)))
    return lvm.fit(problem, "amortized", max_steps=12, draws=20, engine="pyro", progress=False)


CALLS: dict[str, Callable[..., Any]] = {
    "fit": lambda **words: lvm.fit(_problem(), "laplace", draws=20, progress=False, **words),
    "nuts": lambda **words: lvm.nuts(
        _problem(), chains=1, warmup=3, draws=4, engine="pyro", progress=False, precondition="none", **words
    ),
    "smc": lambda **words: lvm.smc(_problem(), particles=100, islands=2, progress=False, **words),
    "exact": lambda **words: lvm.exact(_problem(), draws=20, progress=False, **words),
    "infer": lambda **words: lvm.infer(_problem(), progress=False, **words),
    "evidence": lambda **words: lvm.evidence(_problem(), "exact", progress=False, **words),
    "evaluate": lambda **words: lvm.evaluate(_fitted(), draws=20, pictures=False, progress=False, **words),
    "gaps": lambda **words: lvm.gaps(_fitted(), rows=4, draws=20, steps=20, progress=False, **words),
    "check": lambda **words: lvm.check(_problem(), draws=20, **words),
    "calibrate": lambda **words: lvm.calibrate(
        _problem(), drawn, simulations=2, draws=9, workers=1, progress=False, **words
    ),
    "sweep": lambda **words: lvm.sweep(_problem(), "exact", 1, backend="here", draws=10, progress=False, **words),
    "save": lambda out, overwrite=False, resume=False: saved().save(out, overwrite=overwrite),
}
MODES: list[dict[str, bool]] = [{}, {"resume": True}, {"overwrite": True}, {"resume": True, "overwrite": True}]


def saved() -> lvm.Exact:
    return lvm.exact(_problem(), draws=20, progress=False)


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _linked(folder: Path) -> None:
    """A link to a folder of somebody else."""
    _write(folder.parent / "elsewhere", {"thesis.tex": "years", "manifest.json": "{}"})
    folder.symlink_to(folder.parent / "elsewhere")


def _marker_elsewhere(folder: Path) -> None:
    """Files, and a marker that is a link to that of a real run."""
    saved().save(folder.parent / "real")
    _write(folder, {"thesis.tex": "years"})
    (folder / runs.MARKER).symlink_to(folder.parent / "real" / runs.MARKER)


def _marker_of_a_folder(folder: Path) -> None:
    _write(folder, {f"{runs.MARKER}/x": "a folder", "a.txt": "mine"})


FOREIGN: dict[str, Callable[[Path], None]] = {
    "a web project": lambda folder: _write(
        folder, {"manifest.json": '{"name": "My PWA", "icons": []}', "src/thesis.tex": "years", "report.html": "<p>"}
    ),
    "a git checkout": lambda folder: _write(
        folder, {".git/HEAD": "ref: refs/heads/main", ".git/config": "", "begun.json": "{}"}
    ),
    "checkpoints of torch": lambda folder: _write(
        folder, {"checkpoints/epoch99.pt": "a week", "checkpoints/state-0123456789ab.safetensors": "w", "train.py": "x"}
    ),
    "names like ours": lambda folder: _write(
        folder,
        {
            "data-0123456789ab.nc": "x", "names.log": "../x\n", "1-01234567/names.log": "a\n", "1-01234567/a": "b",
            "simulations.jsonl": "{}", "cells/0/cell.json": "{}", ".part": "p", ".writer": "1 on x", "sweep-run.json": "{}",
        },
    ),
    "a marker without an id": lambda folder: _write(folder, {runs.MARKER: '{"pyrolvm": "run"}', "a.txt": "mine"}),
    "a marker of other content": lambda folder: _write(folder, {runs.MARKER: "to do: buy milk"}),
    "an empty marker among files": lambda folder: _write(folder, {runs.MARKER: "", "a.txt": "mine"}),
    "a folder for a marker": _marker_of_a_folder,
    "a link for a marker": _marker_elsewhere,
    "a link to a folder": _linked,
    "a marker of another version": lambda folder: _write(
        folder,
        {
            runs.MARKER: '{"pyrolvm": "run", "schema": 9, "id": "' + "0" * 32 + '", "command": "fit", "about": {}}\n',
            "1-00000000/names.log": "thesis.tex\n", "1-00000000/thesis.tex": "years",
        },
    ),
    "a file": lambda folder: folder.write_text("mine"),
}  # fmt: skip


PLAIN = ("a web project", "names like ours", "a link for a marker", "a file")
"""One of each sort for the quick tests."""


def state(root: Path) -> dict[str, str]:
    """What there is under a folder: of each name what it is, and a checksum."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.mark.fault("foreign")
@pytest.mark.parametrize(
    ("what", "but"),
    [
        *((what, ("evaluate", "gaps")) for what in PLAIN[1:3]),
        *(pytest.param(what, (), marks=pytest.mark.slow) for what in FOREIGN),
    ],
)
def test_what_is_not_ours_is_refused_and_left_as_it_is(
    what: str, but: tuple[str, ...], tmp_path: Path, record_property: Any
) -> None:
    FOREIGN[what](tmp_path / "out")
    before, calls = state(tmp_path), {name: call for name, call in CALLS.items() if name not in but}
    for command, call in calls.items():
        for words in MODES:
            with pytest.raises(lvm.StoreError, match="Fix:"):
                call(out=tmp_path / "out", **words)
            assert state(tmp_path) == before, (command, words)
    record_property(
        "evidence", f"{what}: {len(before)} names unchanged by {len(calls)} calls in {len(MODES)} modes, all refused"
    )


COMMANDS = (
    "fit", "nuts", "smc", "exact", "infer", "compare", "calibrate", "sweep", "evaluate", "evidence", "gaps", "check",
)  # fmt: skip


@pytest.mark.fault("foreign")
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[] if what in PLAIN[:2] else [pytest.mark.slow]) for what in FOREIGN]
)
def test_the_command_line_refuses_it_before_anything_runs(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    FOREIGN[what](tmp_path / "out")
    before = state(tmp_path)
    for command in COMMANDS:
        target = "vae" if command in ("evaluate", "gaps") else "eight_schools"
        for words in ([], ["--resume"], ["--overwrite"], ["--resume", "--overwrite"]):
            assert main([command, target, "--out", "out", *words]) == 2
            assert re.search(r"no run of pyrolvm, and is|another version of pyrolvm, and is", capsys.readouterr().err)
            assert state(tmp_path) == before, (command, words)
    record_property(
        "evidence", f"{what}: {len(before)} names unchanged by {len(COMMANDS)} commands in 4 modes, all refused"
    )


# --- inside a folder that is ours --------------------------------------------------------------------------------------


def _generation(folder: Path) -> Path:
    return next(path for path in folder.iterdir() if path.is_dir() and path.name[0].isdigit())


def _in_every_folder(folder: Path) -> None:
    for path in [folder, *(one for one in folder.rglob("*") if one.is_dir())]:
        _write(
            path,
            {
                "notes.txt": "mine",
                ".hidden": "mine",
                "data-ffffffffffff.nc": "mine",
                "checkpoints/epoch99.pt": "a week",
            },
        )


def _links_out(folder: Path) -> None:
    _write(folder.parent / "elsewhere", {"thesis.tex": "years", "checkpoints/a.pt": "a week"})
    (folder / "checkpoints").symlink_to(folder.parent / "elsewhere")
    inside = _generation(folder)
    for name in ("checkpoints", "stages", "cells", "posteriors"):
        if not (inside / name).exists():
            (inside / name).symlink_to(folder.parent / "elsewhere")
    (folder / f"99-{inside.name.partition('-')[2]}").symlink_to(folder.parent / "elsewhere")


def _forged_log(folder: Path) -> None:
    """A log that lists what is elsewhere, or was never written by us."""
    _write(folder.parent, {"victim.txt": "years", "victims/a.txt": "years"})
    inside = _generation(folder)
    (inside / "up").symlink_to(folder.parent)
    with (inside / "names.log").open("a") as log:
        log.write(
            "../../victim.txt\n/etc/hostname\nup/victim.txt\nup/victims/a.txt\nup/victims/\nup/victims//\n..//\n\n/\n"
        )


ADDED: dict[str, Callable[[Path], None]] = {
    "files in every folder": _in_every_folder, "links out of it": _links_out, "a forged log": _forged_log,
}  # fmt: skip


REPLACED = (
    ("exact", "links out of it"),
    ("calibrate", "files in every folder"),
    ("sweep", "a forged log"),
    ("save", "links out of it"),
)
"""Each addition, and each sort of run, once for the quick tests."""


@pytest.mark.fault("foreign")
@pytest.mark.parametrize(
    ("command", "what"),
    [
        pytest.param(name, what, marks=[] if (name, what) in REPLACED else [pytest.mark.slow])
        for name in CALLS
        for what in ADDED
        if name != "infer"
    ],
)
def test_what_was_put_into_a_run_stays_when_the_run_is_replaced(
    command: str, what: str, tmp_path: Path, record_property: Any
) -> None:
    out = tmp_path / "out"
    CALLS[command](out=out)
    ours = state(tmp_path)
    ADDED[what](out)
    foreign = {name: said for name, said in state(tmp_path).items() if name not in ours and said != "folder"}
    assert foreign
    for other in (command, "exact", "calibrate"):
        CALLS[other](out=out, overwrite=True)
        now = state(tmp_path)
        assert {name: now.get(name) for name in foreign} == foreign
    assert lvm.load(out) is not None
    record_property("evidence", f"{what}, in a folder of {command}: {len(foreign)} names unchanged by 3 overwrites")


@pytest.mark.parametrize("name", ["report.html", "overview.png", "comparison.json"])
def test_a_page_of_somebody_elses_is_not_replaced(name: str, tmp_path: Path) -> None:
    saved().save(tmp_path / "a")
    runs.write_pages(tmp_path / "a", {"ours.html": lambda file: file.write(b"1")})
    (tmp_path / "a" / name).write_text("mine")
    with pytest.raises(lvm.StoreError, match=r"not written by pyrolvm.*left as it is.*Fix:"):
        runs.write_pages(tmp_path / "a", {name: lambda file: file.write(b"2")})
    assert (tmp_path / "a" / name).read_text() == "mine"
    runs.write_pages(tmp_path / "a", {"ours.html": lambda file: file.write(b"3")})
    assert (tmp_path / "a" / "ours.html").read_bytes() == b"3"


def test_a_manifest_of_somebody_elses_in_our_folder_is_left_as_it_is(tmp_path: Path) -> None:
    saved().save(tmp_path / "a")
    saved().save(tmp_path / "b")
    manifest = (tmp_path / "b" / runs.MANIFEST).read_bytes()
    (tmp_path / "a" / runs.MANIFEST).write_bytes(manifest)
    for words in MODES:
        with pytest.raises(lvm.StoreError, match=r"not of the run.*left as it is|holds a result"):
            CALLS["fit"](out=tmp_path / "a", **words)
    assert (tmp_path / "a" / runs.MANIFEST).read_bytes() == manifest


def test_a_folder_that_is_empty_is_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    saved().save(tmp_path / "out")
    assert (tmp_path / "disk" / runs.MANIFEST).is_file() and isinstance(lvm.load(tmp_path / "out"), lvm.Exact)


def test_a_run_that_fails_before_it_has_anything_leaves_no_folder(tmp_path: Path) -> None:
    def nowhere(y: torch.Tensor) -> None:
        pyro.sample("mean", dist.Normal(0.0, 1.0))
        pyro.factor("never", torch.tensor(float("-inf")))

    with pytest.raises(lvm.PyrolvmError):
        lvm.fit(lvm.Problem(nowhere, Y), "mean_field", out=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    assert isinstance(CALLS["fit"](out=tmp_path / "a"), lvm.Fit)
    (tmp_path / "mine").mkdir()
    with pytest.raises(lvm.PyrolvmError):
        lvm.fit(lvm.Problem(nowhere, Y), "mean_field", out=tmp_path / "mine", progress=False)
    assert state(tmp_path / "mine") == {} and (tmp_path / "mine").is_dir()
