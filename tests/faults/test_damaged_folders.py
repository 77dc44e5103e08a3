"""Damage anywhere in a run's folder: what loads has the values that were written, what goes on comes to the same numbers."""

from __future__ import annotations

import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrolvm as lvm
from pyrolvm._cli.runs import posteriors_in
from tests.faults.test_campaign import COMMANDS, Campaign, numbers
from tests.faults.tiny import regression
from tests.runs.test_readers import forged

Ask = Callable[..., dict[str, Any]]
PAGES = (".html", ".png", "comparison.json", "evaluation.json")
"""What is written for people, and read by nothing."""


def values(folder: Path) -> str:
    """A digest of all that a folder's result says, also when it was made and what it took."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = [lvm.load(folder)]
        except lvm.StoreError as error:
            if "no result to load" not in str(error):
                raise
            parts = posteriors_in([str(folder)])
            found = [*parts, *(lvm.load(path) for path in parts.values())]
        return "".join(map(_said, found))


def _said(found: Any) -> str:
    if isinstance(found, str):
        return found
    if not isinstance(found, lvm.Posterior):
        data = getattr(found, "data", None)
        return repr(found.as_dict()) + (_tree(data) if data is not None else "")
    params = {name: value.numpy().tobytes() for name, value in found.params.items()}
    return repr([found.name, found.seed, found.engine, found.seconds, sorted(params.items())]) + _tree(found.data)


def _tree(data: Any) -> str:
    groups = ((group.path, group.to_dataset()) for group in data.subtree)
    return repr([(path, _plain(one.to_dict())) for path, one in groups])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


def damages(folder: Path, times: int) -> Iterator[Path]:
    """Damages one file after the other, which is as it was afterwards."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    files = [path for path in files if not path.name.endswith(PAGES)]
    for index in range(times):
        rng = np.random.default_rng(index)
        path = files[int(rng.integers(len(files)))]
        content = path.read_bytes()
        damaged = forged.damaged(content, rng) if content else b"x"
        if damaged == content:
            continue
        path.write_bytes(damaged)
        try:
            yield path
        finally:
            path.write_bytes(content)


def told(folder: Path, times: int) -> Counter[str]:
    """How often a damaged folder is refused, and how often it is read: then with the values that were written."""
    whole, outcomes = values(folder), Counter[str]()
    for path in damages(folder, times):
        try:
            assert values(folder) == whole, path
            outcomes["read"] += 1
        except lvm.StoreError as error:
            assert "Fix: " in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > outcomes.total() / 4 and values(folder) == whole
    return outcomes


@pytest.mark.fault("fuzz")
def test_a_damaged_result_is_refused_or_has_the_values_that_were_written(tmp_path: Path) -> None:
    lvm.exact(lvm.Problem(regression), draws=20, progress=False).save(tmp_path / "o")
    assert told(tmp_path / "o", 8).total() > 5


@pytest.mark.slow
@pytest.mark.fault("fuzz")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_damaged_folder_is_refused_or_has_the_values_that_were_written(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    campaign = Campaign(ask, tmp_path, name)
    assert campaign.run(tmp_path / "whole")["result"]["code"] in (0, 1)
    outcomes = told(tmp_path / "whole" / "o", 120)
    record_property("evidence", f"{name}: {outcomes.total()} damaged folders, {dict(outcomes)}; 0 with other values")


@pytest.mark.slow
@pytest.mark.fault("fuzz")
@pytest.mark.parametrize("name", ["fit", "nuts", "smc", "calibrate", "sweep", "compare"])
def test_a_run_that_was_cut_and_damaged_is_refused_or_goes_on_to_the_same_numbers(
    ask: Ask, tmp_path: Path, name: str, record_property: Any
) -> None:
    campaign, outcomes = Campaign(ask, tmp_path, name), Counter[str]()
    whole = campaign.recorded("whole")
    states = whole.distinct(10**6)
    chosen = states[len(states) // 2 : -2 : max(1, len(states) // 8)]
    places = []
    for number, state in enumerate(chosen):
        for damage, _ in enumerate(damages(state / "o", 5)):
            places.append(tmp_path / f"d{number}-{damage}")
            shutil.copytree(state, places[-1], symlinks=True)
    for place, (code, log) in zip(places, campaign.again(places, "--resume"), strict=True):
        assert code in (0, 1, 2) and "Traceback" not in log, (place, log)
        if code == 2:
            assert "Fix: " in log, (place, log)
        else:
            assert numbers(place / "o") == whole.numbers, (place, log)
        outcomes["refused" if code == 2 else "gone on"] += 1
    record_property(
        "evidence", f"{name}: {outcomes.total()} damaged runs that were cut, {dict(outcomes)}; 0 with other numbers"
    )
