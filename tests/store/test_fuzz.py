"""The loader fuzzed: whatever is cut off or flipped in a saved result, it is refused or reads as it was."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm

Y = torch.tensor([0.3, 1.1])


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def drawn(problem: Any, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"mean": torch.randn(20, generator=generator)}


def _fit(out: Path) -> None:
    lvm.fit(lvm.Problem(model, Y), "mean_field", max_steps=5, draws=5, progress=False, engine="pyro").save(out)


def _chains(out: Path) -> None:
    lvm.nuts(lvm.Problem(model, Y), chains=1, warmup=3, draws=5, engine="pyro", progress=False).save(out)


def _exact(out: Path) -> None:
    lvm.exact(lvm.Problem(model, Y), draws=5, progress=False).save(out)


def _calibration(out: Path) -> None:
    options: dict[str, Any] = {"simulations": 3, "draws": 9, "workers": 1, "progress": False}
    lvm.calibrate(lvm.Problem(model, Y), drawn, out=out, **options)


def _sweep(out: Path) -> None:
    lvm.sweep(
        lvm.Problem(model, Y),
        "mean_field",
        1,
        backend="here",
        out=out,
        max_steps=5,
        draws=5,
        progress=False,
        engine="pyro",
    )


KINDS: dict[str, Callable[[Path], None]] = {
    "Fit": _fit, "Chains": _chains, "Exact": _exact, "Calibration": _calibration, "Sweep": _sweep,
}  # fmt: skip


def contents(path: Path) -> Any:
    """Every number and word that a reader gets of a result."""
    found = lvm.load(path)
    if isinstance(found, lvm.Sweep):
        posterior = found.posterior()
        return found.as_dict(), found.cells, found.records, _of(posterior)
    if isinstance(found, lvm.Calibration):
        return _tree(found.data), found.as_dict()
    return _of(found)


def _of(posterior: Any) -> Any:
    params = {name: (value.dtype, value.tolist()) for name, value in posterior.params.items()}
    return _tree(posterior.data), params, dict(posterior.seconds), posterior.engine, posterior.seed, posterior.name


def _tree(tree: Any) -> dict[str, Any]:
    """Groups as bytes and text, in which NaN equals itself."""
    found: dict[str, Any] = {}
    for group in tree.subtree:
        found[group.path] = repr(sorted((name, str(value)) for name, value in group.attrs.items()))
        for name, values in group.variables.items():
            array = np.asarray(values.values)
            held = array.tobytes() if array.dtype != object else repr(array.tolist())
            found[f"{group.path}/{name}"] = (values.dims, str(array.dtype), held)
    return found


@dataclass
class Fuzz:
    """Damages one saved result, byte by byte, and notes what the loader makes of it."""

    folder: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.whole = contents(self.folder)

    def run(self, *, every: int, seed: int = 0) -> None:
        """Tries every ``every``-th truncation and a random flipped bit of every ``every``-th byte of each file."""
        rng = np.random.default_rng(seed)
        for file in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            content = file.read_bytes()
            positions = range(int(rng.integers(every)), len(content), every)
            with file.open("r+b", buffering=0) as handle:
                for position in positions:
                    handle.seek(position)
                    handle.write(bytes([content[position] ^ (1 << int(rng.integers(8)))]))
                    self.look(f"{file.name} flipped at {position}")
                    handle.seek(position)
                    handle.write(content[position : position + 1])
                for position in reversed(positions):
                    handle.truncate(position)
                    self.look(f"{file.name} cut at {position}")
            file.write_bytes(content)

    def look(self, what: str) -> None:
        """Loads what is there, and notes what came of it."""
        try:
            same = contents(self.folder) == self.whole
        except lvm.StoreError as error:
            self.outcomes["refused"] += 1
            if "Fix: " not in str(error):
                self.wrong.append(f"{what}: no remedy: {error}")
        except BaseException as error:
            self.outcomes["crash"] += 1
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
        else:
            self.outcomes["identical" if same else "wrong value"] += 1
            if not same:
                self.wrong.append(f"{what}: other contents")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A saved result of each kind, made once."""
    root, made = tmp_path_factory.mktemp("fuzz"), {}

    def of(kind: str) -> Path:
        if kind not in made:
            KINDS[kind](root / kind)
            made[kind] = root / kind
        return made[kind]

    return of


QUICK = [
    pytest.param(kind, marks=[] if kind in ("Fit", "Calibration", "Chains") else [pytest.mark.slow]) for kind in KINDS
]
"""Of results with draws, with chains, and of tables; all kinds, at every byte, are among the slow tests."""


def _run(path: Path, tmp_path: Path, every: int, record_property: Any) -> Fuzz:
    fuzz = Fuzz(shutil.copytree(path, tmp_path / "run"))
    fuzz.run(every=every)
    cases = sum(fuzz.outcomes.values())
    assert cases > 10 and not fuzz.wrong, fuzz.wrong[:10]
    counts = ", ".join(f"{fuzz.outcomes[name]} {name}" for name in ("refused", "identical", "crash", "wrong value"))
    record_property("evidence", f"{path.name}: {cases} cases, {counts}")
    return fuzz


@pytest.mark.parametrize("kind", QUICK)
def test_damage_is_refused_or_harmless(kind: str, saved: Any, tmp_path: Path, record_property: Any) -> None:
    """A sample of all positions; the next test takes each."""
    path = saved(kind)
    bytes_in_all = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert _run(path, tmp_path, max(1, bytes_in_all // 60), record_property).outcomes["refused"] > 10


@pytest.mark.slow
@pytest.mark.fault("fuzz")
@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation_and_every_byte(kind: str, saved: Any, tmp_path: Path, record_property: Any) -> None:
    _run(saved(kind), tmp_path, 1, record_property)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fuzz_sees_other_numbers(kind: str, saved: Any) -> None:
    """A reader that takes damaged files for whole ones is found out."""
    fuzz = Fuzz(saved(kind))
    fuzz.whole = (None, fuzz.whole)
    fuzz.look("nothing")
    assert fuzz.outcomes == {"wrong value": 1}
