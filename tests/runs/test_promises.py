"""What docs/durability.md says of checkpoints, callbacks and signals that no other test holds."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._cli.signals import listening
from pyrolvm._runs import pace
from pyrolvm._runs.folder import RunFolder
from pyrolvm._runs.pace import Pace

Y = torch.tensor([0.3, 1.1, -0.4])


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(y.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def fit(out: Path | None, **options: Any) -> lvm.Fit:
    words = {"max_steps": 12, "draws": 10, "engine": "pyro", "precondition": "none"} | options
    guide = lvm.guide("mean_field", precondition=words.pop("precondition"))
    kept = {} if out is None else {"out": out, "checkpoint_every": 0}
    return lvm.fit(lvm.Problem(model, Y), guide, progress=False, **kept, **words)


@pytest.mark.parametrize(("took", "apart"), [(0.1, 60.0), (0.6, 60.0), (2.0, 200.0)])
def test_checkpoints_are_a_minute_apart_or_take_a_hundredth_of_the_time(
    took: float, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    paced = Pace(None)
    began = now[0]
    now[0] += took
    paced.written(began)
    now[0] += apart - 0.5
    assert not paced.due()
    now[0] += 1.0
    assert paced.due()


class Counter:
    """A callback that knows how many steps it has seen."""

    def __init__(self, cut: int | None = None) -> None:
        self.seen, self.cut = 0, cut

    def __call__(self, step: Any) -> None:
        if step.step == self.cut:
            raise RuntimeError("power cut")
        self.seen += 1


class Kept(Counter):
    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_a_callback_with_a_state_is_kept_and_others_start_afresh(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        fit(tmp_path / "run", callbacks=[Kept(), Counter(), Counter(cut=7)])
    kept, fresh = Kept(), Counter()
    found = fit(tmp_path / "run", callbacks=[kept, fresh, Counter()], resume=True)
    assert kept.seen == len(found.losses) == 12
    assert 0 < fresh.seen < 12


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with listening():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_from_python_signals_to_end_are_left_to_the_program(tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before, during = [signal.getsignal(number) for number in numbers], []
    fit(tmp_path / "run", callbacks=[lambda step: during.append([signal.getsignal(number) for number in numbers])])
    assert len(during) == 12 and all(one == before for one in during)


def test_an_old_run_that_a_kill_left_is_removed_by_the_next_one_that_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    drawn = lvm.exact(lvm.Problem(model, Y), draws=20, progress=False)
    drawn.save(out)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_clear", lambda folder: None)  # where the kill comes
        drawn.save(out, overwrite=True)
    assert len(list(out.glob("[0-9]*-*"))) == 2 and lvm.load(out)
    runs.write_pages(out, {"page.html": lambda file: file.write(b"1")})
    assert len(list(out.glob("[0-9]*-*"))) == 1 and lvm.load(out)
