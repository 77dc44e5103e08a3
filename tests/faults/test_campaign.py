"""Every command killed before each of its writes: the same command with --resume goes on, and what was in force stays in force.

What a kill leaves is copied at each moment of one run (``moments.py``), and each copy is gone on with. Real kills, at some moments and
at random times, show that the copies are what kills leave.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._base.errors import StoreError
from pyrolvm._cli.runs import posteriors_in

Ask = Callable[..., dict[str, Any]]

MODELS = Path(__file__).with_name("tiny.py")
REGRESSION, ROWS = f"{MODELS}:regression", f"{MODELS}:rows"
STEPS = ["--max-steps", "12"]
COMMANDS: dict[str, list[str]] = {
    "fit": ["fit", REGRESSION, "--guide", "mean_field", "--engine", "torch", *STEPS, "--checkpoint-every", "0.000001"],
    "laplace": ["fit", REGRESSION, "--guide", "laplace"],
    "nuts": ["nuts", REGRESSION, "--chains", "2", "--warmup", "20", "--draws", "20", "--engine", "c"],
    "smc": ["smc", REGRESSION, "--particles", "100", "--islands", "2", "--checkpoint-every", "0.000001"],
    "sparse": ["sparse", REGRESSION, "--draws", "50"],
    "exact": ["exact", REGRESSION, "--draws", "50"],
    "infer": ["infer", REGRESSION, "--methods", "laplace,student", "--draws", "200"],
    "evidence": ["evidence", REGRESSION, "--method", "prior,exact", "--draws", "100"],
    "compare": [
        "compare", REGRESSION, "--guide", "laplace", "--chains", "2", "--warmup", "20", "--draws", "20", "--engine", "c",
    ],
    "calibrate": ["calibrate", REGRESSION, "--method", "exact", "--simulations", "3", "--ranked", "9", "--workers", "1"],
    "sweep": ["sweep", REGRESSION, "--guide", "laplace", "--guide", "exact", "--backend", "here"],
    "cross-validate": [
        "cross-validate", ROWS, "--method", "exact", "--folds", "3", "--draws", "20", "--backend", "here",
    ],
    "evaluate": [
        "evaluate", ROWS, "--guide", "amortized", "--hold-out", "0.25", "--draws", "20", *STEPS,
    ],
    "gaps": ["gaps", ROWS, "--guide", "amortized", "--rows", "4", "--draws", "20", *STEPS],
    "check": ["check", REGRESSION, "--draws", "20"],
}  # fmt: skip
UNTIMED = ("second", "time", "process", "host", "attempt", "evaluations")


def numbers(folder: Path) -> str:
    """A digest of whatever a run's folder holds but for how long it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = lvm.load(folder)
        except StoreError:
            parts = posteriors_in([str(folder)])
            return "+".join(f"{label} {_digest(lvm.load(path))}" for label, path in sorted(parts.items()))
    return _digest(found)


def _digest(found: Any) -> str:
    digest = hashlib.sha256()
    if isinstance(found, lvm.Posterior):
        for group in ("posterior", "log_likelihood"):
            for name, values in sorted(found.data[group].data_vars.items()) if group in found.data.children else ():
                digest.update(name.encode() + np.ascontiguousarray(values.values).tobytes())
        for name, value in sorted(found.params.items()):
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
    else:
        digest.update(json.dumps(_untimed(found.as_dict()), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(one) for key, one in value.items() if not any(word in key for word in UNTIMED)}
    return [_untimed(one) for one in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Recorded:
    """A run of which each state is kept that a kill can leave.

    Attributes:
        numbers: what it gave.
        states: for each write the folder as it was before it; alike ones are one.
    """

    numbers: str
    states: list[Path]

    def distinct(self) -> list[Path]:
        """The states, each once."""
        return list(dict.fromkeys(self.states))


class Campaign:
    """One command, run in folders of its own, killed and gone on with."""

    def __init__(self, ask: Ask, tmp_path: Path, name: str) -> None:
        self.ask, self.root, self.words = ask, tmp_path, COMMANDS[name]
        self.log = tmp_path / "log"

    def run(self, folder: Path, *words: str, **job: Any) -> dict[str, Any]:
        """The command in a folder."""
        folder.mkdir(exist_ok=True)
        job = {
            "do": "command",
            "words": [*self.words, "--out", "o", *words],
            "folder": str(folder),
            "log": self.log,
        } | job
        return {**self.ask(**job), "log": self.log.read_text()}

    def recorded(self, name: str, *words: str) -> Recorded:
        """The command undisturbed in a folder, of which a copy is taken before each write."""
        copies = self.root / f"{name}-states"
        copies.mkdir()
        said = self.run(self.root / name, *words, do="record", copies=copies)
        assert said["code"] == 0 and said["result"]["code"] in (0, 1), said
        return Recorded(numbers(self.root / name / "o"), [copies / str(one) for one in said["result"]["states"]])

    def again(self, folders: list[Path], *words: str) -> list[tuple[int, str]]:
        """The command in each of the folders, one after the other in one process: exit codes, and what was said."""
        said = self.ask(
            "again", words=[*self.words, "--out", "o", *words], folders=[str(one) for one in folders], log=self.log
        )
        assert said["code"] == 0 and "error" not in said, said
        return [(one["code"], one["log"]) for one in said["result"]["found"]]


def left_over(folder: Path) -> list[str]:
    """The folders of runs in a run's folder."""
    return [path.name for path in folder.iterdir() if re.fullmatch("[0-9]+-[0-9a-f]{8}", path.name)]


def anonymous(folder: Path) -> dict[str, str]:
    """What is in a folder, by name, without what differs from run to run: identifiers, checksums, times and processes."""

    def plain(text: str) -> str:
        return re.sub(r"[-+.0-9a-f]*[0-9][-+.0-9a-f]*", "#", text)

    found = {}
    for path in sorted(folder.rglob("*")):
        content = "folder" if path.is_dir() else f"{path.stat().st_size} bytes"
        if path.is_file() and b"\0" not in path.read_bytes():
            content = plain(path.read_bytes().decode(errors="replace"))
        found[plain(str(path.relative_to(folder)))] = content
    return found


@pytest.mark.slow
@pytest.mark.fault("F2")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_before_any_write_goes_on(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    whole = campaign.recorded("whole")
    states, resumed = whole.distinct(), []
    for folder, (code, log) in zip(states, campaign.again(states), strict=True):
        assert code in (0, 1, 2), (folder, log)
        if code == 2:  # there is something: both words are said
            assert "--resume" in log and "--overwrite" in log, (folder, log)
            resumed.append(folder)
    for folder, (code, log) in zip(resumed, campaign.again(resumed, "--resume"), strict=True):
        assert code in (0, 1), (folder, log)
    for folder in states:
        assert numbers(folder / "o") == whole.numbers, folder
        assert len(left_over(folder / "o")) == 1, folder
    record_property(
        "evidence",
        f"{name}: {len(whole.states)} moments, {len(states)} states, {len(resumed)} of them said to resume; all go on, to the "
        "same numbers",
    )


@pytest.mark.slow
@pytest.mark.fault("F2")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_while_it_overwrites_leaves_the_old_result_or_the_new_one(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    seeded = ("--seeds", "5,6") if name == "sweep" else ("--seed", "5")
    said = campaign.run(tmp_path / "old")
    assert said["code"] == 0 and said["result"]["code"] in (0, 1), said
    old = numbers(tmp_path / "old" / "o")
    shutil.copytree(tmp_path / "old", tmp_path / "new", symlinks=True)
    new = campaign.recorded("new", *seeded, "--overwrite")
    assert old != new.numbers or name in ("exact", "evidence", "laplace")
    states = new.distinct()
    loaded = [numbers(folder / "o") for folder in states]
    assert set(loaded) <= {old, new.numbers}
    both = (
        ("--overwrite",) if name == "sweep" else ("--overwrite", "--resume")
    )  # a sweep that is resumed keeps the cells it has
    again = campaign.again(states, *seeded, *both)
    for folder, found, (code, log) in zip(states, loaded, again, strict=True):
        assert code in (0, 1), (folder, log)
        assert numbers(folder / "o") == new.numbers, folder
        assert len(left_over(folder / "o")) == 1 or found == new.numbers, folder  # what is finished is only read
    record_property(
        "evidence",
        f"{name} --overwrite: {len(new.states)} moments, {len(states)} states, {loaded.count(old)} with the old result, the rest "
        "with the new one; all go on to it",
    )


@pytest.mark.slow
@pytest.mark.fault("F2")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_copy_of_a_moment_is_what_a_kill_leaves(ask: Ask, tmp_path: Path, name: str, record_property: Any) -> None:
    """The proof of the two tests above: processes that are killed by SIGKILL at some of the moments."""
    campaign = Campaign(ask, tmp_path, name)
    whole = campaign.recorded("whole")
    kills = sorted(random.Random(name).sample(range(1, len(whole.states) + 1), 4))
    for kill in kills:
        folder = tmp_path / f"k{kill}"
        assert campaign.run(folder, kill=kill)["code"] == -9
        assert anonymous(folder) == anonymous(whole.states[kill - 1]), kill
        again = campaign.run(folder, "--resume")
        assert again["code"] == 0 and again["result"]["code"] in (0, 1), (kill, again)
        assert numbers(folder / "o") == whole.numbers, kill
    record_property(
        "evidence", f"{name}: killed before writes {', '.join(map(str, kills))}, which leaves what was copied"
    )


@pytest.mark.slow
@pytest.mark.fault("F5")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_disk_is_full_from_any_write_on_says_so_and_goes_on(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    whole = campaign.recorded("whole")
    moments = sorted(random.Random(name).sample(range(1, len(whole.states) + 1), 6))
    folders, codes = [tmp_path / f"f{moment}" for moment in moments], []
    for folder, moment in zip(folders, moments, strict=True):
        said = campaign.run(folder, full=moment)
        assert said["code"] == 0 and "Traceback" not in said["log"], (moment, said)
        codes.append(said["result"]["code"])
        assert codes[-1] in (0, 1) or "Fix: " in said["log"], (moment, said["log"])
    for folder, (code, log) in zip(folders, campaign.again(folders, "--resume"), strict=True):
        assert code in (0, 1), (folder, log)
        assert numbers(folder / "o") == whole.numbers, (folder, log)
        assert len(left_over(folder / "o")) == 1, folder
    record_property(
        "evidence",
        f"{name}: no room from writes {', '.join(map(str, moments))} on, {codes.count(2)} ended with an error; all go on, to the "
        "same numbers",
    )


@pytest.mark.slow
@pytest.mark.fault("F2")
@pytest.mark.parametrize("suffix", ["csv", "nc"])
def test_predictions_that_are_killed_are_the_old_file_or_the_new_one(
    ask: Ask, tmp_path: Path, suffix: str, record_property: Any
) -> None:
    """A file and no run: it is made again, and what stands there meanwhile is whole."""
    campaign = Campaign(ask, tmp_path, "exact")
    assert campaign.run(tmp_path / "run")["result"]["code"] == 0
    file, seen, moments = f"p.{suffix}", [], 0
    for seed in ("1", "2"):
        words = ["predict", "o", "--problem", REGRESSION, "--draws", "20", "--seed", seed, "--out", file, "--overwrite"]
        copies = tmp_path / f"states-{seed}"
        copies.mkdir()
        job = {"words": words, "folder": tmp_path / "run", "log": campaign.log, "copies": copies}
        said = ask("record", **job)
        assert said["result"]["code"] == 0, campaign.log.read_text()
        moments += len(said["result"]["states"])
        left = {(folder / file).read_bytes() if (folder / file).exists() else None for folder in copies.iterdir()}
        seen.append((tmp_path / "run" / file).read_bytes())
        assert left <= {None if seed == "1" else seen[0], seen[-1]}
    assert seen[0] != seen[1]
    record_property(
        "evidence", f"predict --out {file}: {moments} moments, at each of which the old file or the new one is whole"
    )


@pytest.mark.slow
@pytest.mark.fault("F2")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_at_any_time_goes_on(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    """At random times, ten for each command: over a hundred in all."""
    import time

    campaign = Campaign(ask, tmp_path, name)
    assert campaign.run(tmp_path / "whole")["result"]["code"] in (0, 1)
    wanted = numbers(tmp_path / "whole" / "o")
    began = time.monotonic()  # what is compiled is there by now
    assert campaign.run(tmp_path / "again")["result"]["code"] in (0, 1)
    took, chance, hit = time.monotonic() - began, random.Random(name), 0
    for n in range(10):
        folder = tmp_path / f"t{n}"
        (tmp_path / "ready").touch()
        said = campaign.run(folder, kill_after=chance.uniform(0.0, took), ready=tmp_path / "ready")
        hit += said["code"] == -9
        again = campaign.run(folder, "--resume")
        assert again["code"] == 0 and again["result"]["code"] in (0, 1), again
        assert numbers(folder / "o") == wanted
        shutil.rmtree(folder)
    assert hit >= 3
    record_property("evidence", f"{name}: {hit} of 10 runs were killed; each goes on to the same numbers")


@pytest.mark.slow
@pytest.mark.fault("F2")
def test_predictions_that_are_killed_at_any_time_are_whole_or_not_there(
    ask: Ask, tmp_path: Path, record_property: Any
) -> None:
    import time

    campaign = Campaign(ask, tmp_path, "exact")
    assert campaign.run(tmp_path / "run")["result"]["code"] == 0
    file, words = tmp_path / "run" / "p.nc", ["predict", "o", "--problem", REGRESSION, "--draws", "20", "--out", "p.nc"]
    job: dict[str, Any] = {"words": [*words, "--overwrite"], "folder": tmp_path / "run", "log": campaign.log}
    began = time.monotonic()
    assert ask("command", **job)["result"]["code"] == 0
    took, chance, hit = time.monotonic() - began, random.Random("predict"), 0
    wanted = _digest_file(file)
    (tmp_path / "ready").touch()
    for n in range(10):
        if n % 2:
            file.unlink()
        said = ask("command", **job, kill_after=chance.uniform(0.0, took), ready=tmp_path / "ready")
        hit += said["code"] == -9
        assert not file.exists() or _digest_file(file) == wanted
        assert ask("command", **job)["result"]["code"] == 0 and _digest_file(file) == wanted
    assert sorted(path.name for path in file.parent.iterdir()) == ["o", "p.nc"]
    record_property(
        "evidence", f"predict: {hit} of 10 runs were killed; the file is whole each time, and the same afterwards"
    )


def _digest_file(file: Path) -> str:
    import xarray as xr

    digest = hashlib.sha256()
    with xr.open_datatree(file, engine="h5netcdf") as tree:
        for group in tree.subtree:
            for name, one in sorted(group.data_vars.items()):
                digest.update(f"{group.path}/{name}".encode() + np.ascontiguousarray(one.values).tobytes())
    return digest.hexdigest()
