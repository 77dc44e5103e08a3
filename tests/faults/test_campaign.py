"""Every command killed before each of its writes: the same command with --resume goes on, and what was in force stays in force."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import warnings
from collections.abc import Callable
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
    "exact": ["exact", REGRESSION, "--draws", "50"],
    "infer": ["infer", REGRESSION, "--methods", "laplace,student", "--draws", "200"],
    "evidence": ["evidence", REGRESSION, "--method", "prior,exact", "--draws", "100"],
    "compare": [
        "compare", REGRESSION, "--guide", "laplace", "--chains", "2", "--warmup", "20", "--draws", "20", "--engine", "c",
    ],
    "calibrate": ["calibrate", REGRESSION, "--method", "exact", "--simulations", "3", "--ranked", "9", "--workers", "1"],
    "sweep": ["sweep", REGRESSION, "--guide", "laplace", "--guide", "exact", "--backend", "here"],
    "evaluate": [
        "evaluate", ROWS, "--guide", "amortized", "--hold-out", "0.25", "--draws", "20", *STEPS,
    ],
    "gaps": ["gaps", ROWS, "--guide", "amortized", "--rows", "4", "--draws", "20", *STEPS],
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


class Campaign:
    """One command, run in folders of its own, killed and gone on with."""

    def __init__(self, ask: Ask, tmp_path: Path, name: str) -> None:
        self.ask, self.root, self.words = ask, tmp_path, COMMANDS[name]

    def run(self, folder: Path, *words: str, **job: Any) -> dict[str, Any]:
        """The command in a folder."""
        folder.mkdir(exist_ok=True)
        log = self.root / "log"
        said = self.ask("command", words=[*self.words, "--out", "o", *words], folder=str(folder), log=log, **job)
        return {**said, "log": log.read_text()}

    def reference(self, name: str, *words: str) -> tuple[str, int]:
        """What the command gives undisturbed, and how often it writes."""
        said = self.run(self.root / name, *words)
        assert said["code"] == 0 and said["result"]["code"] in (0, 1), said
        return numbers(self.root / name / "o"), said["result"]["writes"]


def moments(writes: int, share: int) -> list[int]:
    """Before which writes to kill: all of them, or some at random."""
    every = list(range(1, writes + 1))
    return every if share >= writes else sorted(random.Random(writes).sample(every, share))


FEW, ALL = 3, 10**6
QUICK = ("exact",)


def _levels(names: Any) -> list[Any]:
    fast = [pytest.param(name, FEW) for name in names if name in QUICK]
    return fast + [pytest.param(name, ALL, marks=[pytest.mark.slow]) for name in names]


@pytest.mark.fault("F2")
@pytest.mark.parametrize(("name", "share"), _levels(COMMANDS))
def test_a_command_that_is_killed_before_any_write_goes_on(
    ask: Ask, tmp_path: Path, name: str, share: int, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    wanted, writes = campaign.reference("whole")
    kills = moments(writes, share)
    for kill in kills:
        folder = tmp_path / f"k{kill}"
        assert campaign.run(folder, kill=kill)["code"] == -9
        again = campaign.run(folder)
        if again["result"]["code"] == 2:  # there is something: both words are said
            assert "--resume" in again["log"] and "--overwrite" in again["log"], (kill, again["log"])
            again = campaign.run(folder, "--resume")
        assert again["code"] == 0 and again["result"]["code"] in (0, 1), (kill, again)
        assert numbers(folder / "o") == wanted, kill
        left = [path.name for path in (folder / "o").iterdir()]
        assert sum("-" in one and one[0].isdigit() for one in left) == 1, (kill, left)
        shutil.rmtree(folder)
    record_property("evidence", f"{name}: {len(kills)} kills before {writes} writes; each goes on to the same numbers")


@pytest.mark.fault("F2")
@pytest.mark.parametrize(("name", "share"), _levels(COMMANDS))
def test_a_command_that_is_killed_while_it_overwrites_leaves_the_old_result_or_the_new_one(
    ask: Ask, tmp_path: Path, name: str, share: int, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    seeded = () if name == "sweep" else ("--seed", "5")
    if name == "sweep":
        seeded = ("--seeds", "5,6")
    old, _ = campaign.reference("old")
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    new, writes = campaign.reference("new", *seeded, "--overwrite")
    assert old != new or name in ("exact", "evidence", "laplace")
    loaded = {old: 0, new: 0}
    kills = moments(writes, share)
    for kill in kills:
        folder = tmp_path / f"k{kill}"
        shutil.copytree(tmp_path / "old", folder)
        assert campaign.run(folder, *seeded, "--overwrite", kill=kill)["code"] == -9
        found = numbers(folder / "o")
        assert found in loaded, kill
        loaded[found] += 1
        again = campaign.run(folder, *seeded, "--overwrite", "--resume")
        assert again["code"] == 0 and again["result"]["code"] in (0, 1), (kill, again)
        assert numbers(folder / "o") == new, kill
        shutil.rmtree(folder)
    record_property(
        "evidence", f"{name} --overwrite: {len(kills)} kills; {loaded[old]} left the old result, the rest the new"
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
    began = time.monotonic()
    wanted, _ = campaign.reference("whole")
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
    record_property("evidence", f"{name}: {hit} of 10 runs were killed; each goes on to the same numbers")
