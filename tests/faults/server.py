"""A process that runs jobs in forks of itself, which may be killed: pyrolvm is imported once, and each job starts from there.

``python tests/faults/server.py`` reads a line of JSON for each job, and answers with one: how the job's process ended and what it
said. Nothing of JAX has run when it forks.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pyrolvm as lvm
import pyrolvm._methods.fit.inference as fitting
from pyrolvm import _runs as runs
from pyrolvm._runs.folder import RunFolder
from tests.faults.moments import again, command, record

torch.set_num_threads(1)


def line(x: Tensor, y: Tensor) -> None:
    """A regression with an unknown scale."""
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, scale), obs=y)


def other_line(x: Tensor, y: Tensor) -> None:
    """The same with another prior."""
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(3), 2.5).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_tensor(0.0), 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, scale), obs=y)


def problem(model: Callable[..., Any] = line, shift: float = 0.0) -> lvm.Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    return lvm.Problem(model, x, x @ torch.tensor([1.0, -2.0, 0.5]) + shift + torch.randn(60, generator=generator))


FIT: dict[str, Any] = {
    "max_steps": 300, "draws": 100, "batch_size": 16, "tolerance": 0.3, "seed": 7, "progress": False,
}  # fmt: skip
NUTS: dict[str, Any] = {"chains": 2, "warmup": 60, "draws": 200, "seed": 7, "progress": False, "precondition": "none"}


def fill_up(path: Path) -> None:
    """Writes zeros until there is no room for another."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def fit(job: dict[str, Any]) -> dict[str, Any]:
    """A fit to which something happens when it has taken so many steps, before the call that takes them returns.

    A signal comes, or the disk is full: ``limit`` allows files of so many bytes, ``fill`` is a file that takes all the room there is.
    """
    stop, number = job.pop("stop", None), job.pop("signal", signal.SIGKILL)
    limit, fill = job.pop("limit", None), job.pop("fill", None)
    begin = fitting.begin

    def watched(*args: Any) -> Any:
        engine, reason = begin(*args)
        advance = engine.advance

        def advance_to(first: int, factors: Any) -> Any:
            taken = advance(first, factors)
            if stop is None or not first <= stop < first + len(factors):
                return taken
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            elif fill is not None:
                fill_up(Path(fill))
            else:
                os.kill(os.getpid(), number)
            return taken

        engine.advance = advance_to
        return engine, reason

    fitting.begin = watched
    guide = lvm.guide("mean_field", precondition="none")
    found = lvm.fit(problem(**job.pop("problem", {})), guide, **FIT | job)
    return {"engine": found.engine, "steps": len(found.losses), "reason": found.stop_reason}


def nuts(job: dict[str, Any]) -> dict[str, Any]:
    """A run of NUTS whose process gets a signal after so many of the transitions that are reported."""
    stop, number, slow = job.pop("stop", None), job.pop("signal", signal.SIGKILL), job.pop("slow", 0.0)

    def progress(done: int, total: int, text: str) -> None:
        time.sleep(slow)
        if stop is not None and done >= stop:
            os.kill(os.getpid(), number)

    import pyrolvm._base.progress

    pyrolvm._base.progress.Progress.__init__.__kwdefaults__["every"] = 0.0  # every report counts
    found = lvm.nuts(problem(**job.pop("problem", {})), **NUTS | {"progress": progress} | job)
    return {"kernel": found.data["sample_stats"].attrs["kernel"], "draws": found.data["posterior"].sizes["draw"]}


def saves(job: dict[str, Any]) -> dict[str, Any]:
    """Saves one result over another until it is killed: the n-th has the seed n."""
    made = lvm.load(job["source"])
    Path(job["ready"]).touch()
    for n in range(job["first"], 10**6):
        made.seed = n
        made.save(job["out"], overwrite=True)
    return {}


def checkpoints(job: dict[str, Any]) -> dict[str, Any]:
    """Writes checkpoints until it is killed: the n-th has n in its state and its tensor."""

    def work(run: runs.Run | None) -> None:
        assert run is not None
        kept = run.checkpoints
        found = kept.read()
        n = found.state["n"] if found else 0
        Path(job["ready"]).touch()
        while True:
            n += 1
            kept.write({"n": n, "tensor": torch.full((1000,), float(n))}, chunk=n)

    codec: runs.Codec[None] = runs.Codec("Nothing", lambda _: {}, lambda _: None)
    runs.run(runs.order(job["out"], resume=True), "count", {"problem": "counting"}, codec, work)
    return {}


def cli(job: dict[str, Any]) -> dict[str, Any]:
    """The command line, which gets a signal, and maybe a second one, after so many steps or transitions."""
    import pyrolvm._base.progress
    from pyrolvm._cli import main

    stop, numbers = job["stop"], job["signals"]
    update = pyrolvm._base.progress.Progress.update

    def watched(self: Any, done: int, text: Any, **more: Any) -> None:
        while numbers and done >= stop:
            os.kill(os.getpid(), numbers.pop(0))
        update(self, done, text, **more)

    pyrolvm._base.progress.Progress.update = watched  # type: ignore[method-assign]
    sys.stdout = sys.stderr = open(job["log"], "w", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    os.chdir(job["folder"])
    return {"code": main(job["words"])}


def hold(job: dict[str, Any]) -> dict[str, Any]:
    """Holds the lock of a folder."""
    with RunFolder.claimed(Path(job["out"]), "hold", {}):
        Path(job["ready"]).touch()
        time.sleep(60)
    return {}


JOBS = {job.__name__: job for job in (fit, nuts, cli, saves, checkpoints, command, record, again, hold)}


def child(job: dict[str, Any], answer: int) -> None:
    """Runs one job and writes what came of it."""
    said: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            said["result"] = JOBS[job.pop("do")](job)
        except BaseException as error:
            said["error"] = f"{type(error).__name__}: {error}"
            said["trace"] = traceback.format_exc()
    said["warnings"] = [str(one.message) for one in caught]
    with os.fdopen(answer, "w") as stream:
        json.dump(said, stream)
    os._exit(0)


def warm() -> None:
    """Imports and runs what every job needs, but for JAX, whose threads a fork would lose."""
    import importlib
    import pkgutil

    for module in pkgutil.walk_packages(lvm.__path__, "pyrolvm."):
        if not module.name.startswith("pyrolvm._capture.jax") and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in (
        "arviz_base",
        "arviz_stats",
        "h5netcdf",
        "matplotlib.pyplot",
        "pandas",
        "safetensors.torch",
        "scipy.stats",
        "xarray",
    ):
        importlib.import_module(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lvm.fit(problem(), "mean_field", max_steps=3, draws=20, engine="torch", progress=False)
        str(lvm.diagnose(found))


def main() -> None:
    """Serves until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warm()
    for request in sys.stdin:
        job = json.loads(request)
        reader, writer = os.pipe()
        after = job.pop("kill_after", None)
        pid = os.fork()
        if not pid:
            os.close(reader)
            child(job, writer)
        os.close(writer)
        if after is not None:
            ready, began = Path(job["ready"]), time.monotonic()
            while not ready.exists() and time.monotonic() - began < 60:
                time.sleep(0.001)
            select.select([reader], [], [], after)  # which its answer ends, if that comes before
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reader, "rb") as stream:
            said = stream.read()
        _, status = os.waitpid(pid, 0)
        print(
            json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status), **json.loads(said or b"{}")}), flush=True
        )


if __name__ == "__main__":
    main()
