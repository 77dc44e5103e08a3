"""A fit that several processes make together: shares of rows, sums in one order, processes that end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrolvm as lvm
from pyrolvm._base.team import Team
from pyrolvm._capture.graph import Noise
from pyrolvm._methods.fit.engines.shared import _shared
from pyrolvm._methods.sparse.rows import shared_by_rows
from pyrolvm._program.density import rowwise
from pyrolvm._program.rows import minibatch_plate

PROGRAM = Path(__file__).with_name("distributed_program.py")


class _Threads(Team):
    """Processes that are threads."""

    @classmethod
    def several(cls, size: int) -> list[_Threads]:
        """So many that exchange what they have."""
        barrier, held = threading.Barrier(size, timeout=20), [torch.zeros(0)] * size
        found = [cls(rank, size, (barrier, held), 1) for rank in range(size)]
        return found

    def gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        barrier, held = self.group
        held[self.rank] = tensor.clone()
        barrier.wait()
        found = list(held)
        barrier.wait()
        return found

    def led(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.gathered(tensor)[0]


def _regression(rows: int) -> lvm.Problem:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 5.0))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=a + 0.5 * x), obs=y)

    random = np.random.default_rng(5)
    return lvm.Problem(
        model, torch.as_tensor(random.normal(size=rows)), torch.as_tensor(1.0 * (random.random(rows) < 0.4))
    )


@pytest.mark.parametrize("numbers", [rowwise.NUMBERS, 40])
def test_sums_over_rows_are_the_same_to_the_bit_however_many_share_them(
    monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    monkeypatch.setattr(rowwise, "TOGETHER", 2)
    problem = _regression(70_000)  # nine blocks, which no number of processes here divides
    with problem.session(seed=0):
        density = shared_by_rows(problem, minibatch_plate(problem))
    assert density is not None
    points = np.random.default_rng(1).normal(size=(3, 1))
    wanted = density(points)
    monkeypatch.setattr(rowwise, "NUMBERS", numbers)  # how many rounds are held before they are exchanged
    for size in (2, 4):
        found: dict[int, Any] = {}

        def one(team: Team, found: dict[int, Any] = found) -> None:
            own = replace(density, _local=threading.local())
            own.share(team)
            found[team.rank] = own(points + team.rank)  # the first one leads

        threads = [threading.Thread(target=one, args=(team,)) for team in _Threads.several(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for values, gradients in found.values():
            np.testing.assert_array_equal(values, wanted[0])
            np.testing.assert_array_equal(gradients, wanted[1])


def test_random_numbers_of_rows_are_shared_and_those_of_all_rows_are_not() -> None:
    def noise(*shape: int) -> Noise:
        return Noise("normal", shape, torch.float64, torch.device("cpu"))

    parts = []
    for team in _Threads.several(3):
        torch.manual_seed(1)
        parts.append([_shared(noise(4), noise(4), team).draw(), _shared(noise(2, 9, 5), noise(2, 3, 5), team).draw()])
    torch.manual_seed(1)
    common, whole = noise(4).draw(), noise(2, 9, 5).draw()
    assert all(torch.equal(part[0], common) for part in parts)
    assert torch.equal(torch.cat([part[1] for part in parts], 1), whole)
    with pytest.raises(lvm.CaptureError, match=r"random numbers of shape \(9,\) on a batch are of shape \(2,\)"):
        _shared(noise(9), noise(2), _Threads.several(3)[0])


def test_what_processes_do_not_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    problem = _regression(100)
    for given, told in (
        ({"distributed": True}, "no launcher of torch.distributed started"),
        ({"distributed": "yes"}, "must be True or False"),
        ({"distributed": True, "engine": "jax"}, "takes no steps that processes share"),
        ({"distributed": True, "validation": {"x": torch.zeros(3)}}, "held-out data are not shared"),
    ):
        with pytest.raises(lvm.ArgumentError, match=told):
            lvm.fit(problem, **given)  # type: ignore[arg-type]


def test_one_process_of_a_launcher_fits_and_keeps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    problem, out = _regression(500), tmp_path / "run"
    try:
        fit = lvm.fit(problem, distributed=True, out=out, draws=100, progress=False)
        again = lvm.fit(problem, distributed=True, out=out, draws=100, resume=True, progress=False)
        with pytest.raises(lvm.StoreError, match="distributed"):
            lvm.fit(problem, out=out, draws=100, resume=True, progress=False)
        with pytest.raises(lvm.ArgumentError, match="steps of 'model' take all of them"):
            lvm.fit(problem, "mean_field", distributed=True, progress=False)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    assert fit.verdict.status == "trusted"
    np.testing.assert_array_equal(fit.data["posterior"]["a"], again.data["posterior"]["a"])


# --- processes ---------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _alone(*words: str, **more: str) -> dict[str, Any]:
    subprocess.run([sys.executable, PROGRAM, *words], check=True, env=_environment(**more), timeout=900)
    return dict(json.loads(Path(words[1]).read_text()))


def _environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    }
    return kept | {"OMP_NUM_THREADS": "1"} | more


PLAIN = {"TORCHDYNAMO_DISABLE": "1"}
"""Lets torch run graphs operation by operation, which begins sooner."""


@contextmanager
def _processes(count: int, words: Sequence[str], **more: str) -> Iterator[list[subprocess.Popen[str]]]:
    """So many processes as any launcher starts them."""
    port = str(_free_port())
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, *words], stderr=subprocess.PIPE, text=True,
            env=_environment(**common, RANK=str(rank), LOCAL_RANK=str(rank), **more),
        )
        for rank in range(count)
    ]  # fmt: skip
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def _together(count: int, *words: str, **more: str) -> dict[str, Any]:
    with _processes(count, [str(PROGRAM), *words], **more) as started:
        for one in started:
            _, said = one.communicate(timeout=900)
            assert one.returncode == 0, said
    return dict(json.loads(Path(words[1]).read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_rows_that_processes_share_give_the_bits_of_one(count: int, tmp_path: Path) -> None:
    wanted = _alone("rows", str(tmp_path / "one.json"))
    assert _together(count, "rows", str(tmp_path / "more.json")) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_steps_that_processes_share_are_those_of_one(count: int, tmp_path: Path) -> None:
    more = {} if count == 2 else PLAIN
    wanted = _alone("deep", str(tmp_path / "one.json"), **more)
    found = _together(count, "deep", str(tmp_path / "more.json"), **more)
    np.testing.assert_allclose(found["elbo"], wanted["elbo"], rtol=1e-9)
    for part in ("params", "draws"):
        assert found[part].keys() == wanted[part].keys()
        for name, value in wanted[part].items():
            np.testing.assert_allclose(found[part][name], value, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_ends_the_others_and_all_go_on(killed: int, tmp_path: Path) -> None:
    wanted = _alone("deep", str(tmp_path / "one.json"), **PLAIN)
    out, words = tmp_path / "run", ["deep", str(tmp_path / "more.json"), str(tmp_path / "run")]
    with _processes(2, [str(PROGRAM), *words], **PLAIN) as started:
        while not list(out.glob("**/checkpoint-*.json")):
            assert all(one.poll() is None for one in started)
            time.sleep(0.01)
        started[killed].send_signal(signal.SIGKILL)
        began = time.monotonic()
        stream = started[1 - killed].stderr
        assert stream is not None
        said = next(line for line in stream if "has lost another one" in line)
        assert time.monotonic() - began < 10
    assert f"process {1 - killed} of 2" in said
    assert "resume=True" in said
    found = _together(2, *words, **PLAIN)
    assert len(found["elbo"]) == 120
    for name, value in wanted["params"].items():
        np.testing.assert_allclose(found["params"][name], value, rtol=1e-9, atol=1e-9, err_msg=name)
    assert _together(2, *words, **PLAIN) == found  # it is finished, which all of them see
    with _processes(1, [str(PROGRAM), *words], **PLAIN) as (one,):  # by another number of processes too
        assert one.wait(timeout=900) == 0


@pytest.mark.slow
def test_the_shell_fits_in_the_processes_of_a_launcher(tmp_path: Path) -> None:
    call = "-m pyrolvm fit logistic_regression --batch-size 64".split()
    words = [*call, "--out", str(tmp_path / "run"), "--json", str(tmp_path / "said.json")]
    with _processes(2, words) as started:
        for one in started:
            _, said = one.communicate(timeout=900)
            assert one.returncode == 0, said
    assert json.loads((tmp_path / "said.json").read_text())["verdict"]["status"] == "trusted"
    assert lvm.load(tmp_path / "run").verdict.status == "trusted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "said.json"]
