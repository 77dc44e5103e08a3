"""nutpie's NUTS on a captured potential: its adaptation, which learns scales from gradients as well, in Rust.

The gradient is a C function where there is a compiler (:mod:`pyrolvm._capture.native`), and no Python runs while a chain
does; otherwise it is one call of a function compiled by XLA. Each chain is a sampler of its own, so that its draws depend
on its own seed and start only. nutpie takes no first mass matrix; a known covariance LL' is passed on by sampling x in
z = mean + L x, where the posterior has scales of about one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, FitError
from pyrolvm._base.interrupts import held
from pyrolvm._base.numerics import Array
from pyrolvm._capture import capture, selfcheck
from pyrolvm._capture.door import xla
from pyrolvm._capture.native import NativeGradient, compile_gradient
from pyrolvm._compat import nutpie
from pyrolvm._methods.nuts.base import Raw, Settings, depths, stage
from pyrolvm._methods.nuts.potential import Program, check_far, check_starts, numpy_dtype
from pyrolvm._program.density import Joint

__all__ = ["MIN_WARMUP", "require", "run", "run_native", "usable"]

MIN_WARMUP = 10
"""nutpie adapts in stages; a warmup that has no room for them is none of its."""

POLL = 0.05

Table = dict[str, Array]
"""What a chain stored, by name."""
Gradient = Callable[[Array], tuple[float, Array]]
"""The potential energy and its gradient, both in double precision, at an unconstrained vector."""


def require() -> None:
    """Makes sure that nutpie is there and works.

    Raises:
        ArgumentError: if it does not.
    """
    cause = nutpie.fault()
    if cause is not None:
        raise ArgumentError(
            f"kernel 'nutpie' cannot run: {cause}. Fix: pip install '{nutpie.WANTED}', or use kernel=\"numpyro\"."
        )


def usable() -> bool:
    """Whether nutpie is there and works; where it does not, that is said once."""
    return selfcheck.works("nutpie")


def run(joint: Joint, program: Program, starts: Tensor, seeds: Sequence[int], settings: Settings) -> Raw:
    """Runs one chain from each start on XLA's gradient, on the processor; must be called inside a session.

    Args:
        joint: the density, for a comparison at the starts.
        program: its potential energy on JAX.
        starts: unconstrained starting points, shape ``(chains, unconstrained_size)``.
        seeds: one seed a chain.
        settings: how to run.

    Raises:
        ArgumentError: if nutpie does not work here.
        Disagreement: if the potential is not what Pyro computes.
    """
    require()
    began = time.perf_counter()
    gradient = _gradient(program)
    scale = _Scale(settings, starts.shape[1])

    def model(start: Array) -> _Model:
        return _called_model(gradient, scale, start)

    points = starts.double().cpu().numpy()
    values, gradients = zip(*(gradient(z) for z in points), strict=True)
    seconds = {"compile": time.perf_counter() - began}
    check_starts(joint, starts, np.asarray(values), np.stack(gradients))
    note = f"{len(starts)} chains of nutpie, one call into Python for each gradient"
    return _sample(model, scale, starts, seeds, settings, seconds, note)


def run_native(
    joint: Joint, starts: Tensor, seeds: Sequence[int], settings: Settings, native: NativeGradient | None = None
) -> Raw:
    """Runs one chain from each start on a gradient compiled from C, in double precision; must be called inside a session.

    Args:
        joint: the density.
        starts: unconstrained starting points, shape ``(chains, unconstrained_size)``.
        seeds: one seed a chain.
        settings: how to run.
        native: the density's gradient, if it is compiled already.

    Raises:
        ArgumentError: if nutpie does not work here.
        CaptureError: if the model cannot be captured, an operation has no rule in C, or there is no compiler.
        Disagreement: if the potential is not what Pyro computes.
    """
    require()
    began = time.perf_counter()
    scale = _Scale(settings, starts.shape[1])
    if native is None:
        captured = capture(joint.potential, starts[0].clone(), what=f"the density of {joint.problem.name}")
        native = compile_gradient(captured)
    values, gradients = native.many(starts.double().cpu().numpy())
    seconds = {"compile": time.perf_counter() - began}
    check_starts(joint, starts, -values, -gradients)
    function = scale.moved(native)
    note = f"{len(starts)} chains of nutpie on a gradient compiled from C"
    raw = _sample(lambda start: _native_model(function, start), scale, starts, seeds, settings, seconds, note)
    check_far(joint, raw.draws, native.many)
    return raw


def _sample(
    model: Callable[[Array], _Model],
    scale: _Scale,
    starts: Tensor,
    seeds: Sequence[int],
    settings: Settings,
    seconds: dict[str, float],
    note: str,
) -> Raw:
    points = starts.double().cpu().numpy()
    saved = None if settings.keeper is None else settings.keeper.begin("nutpie")
    tables: dict[int, Table] = {}
    for chunk in saved[1] if saved else ():
        tables |= chunk
    chains = {
        i: _Chain(model(scale.inverse(z)), seed, settings)
        for i, (z, seed) in enumerate(zip(points, seeds, strict=True))
        if i not in tables
    }
    interrupted = _drive(chains, tables, settings)
    return _raw([tables[i] for i in range(len(points))], scale, starts, settings, interrupted, seconds, note)


def _gradient(program: Program) -> Gradient:
    """The potential and its gradient as one call of a compiled function."""
    import jax

    kind = numpy_dtype(program.dtype)
    with xla().precision(program.dtype):
        function = jax.jit(jax.value_and_grad(program.function))
        compiled = xla().compiled(function.lower(np.zeros(program.size, kind), *program.constants))

    def call(z: Array) -> tuple[float, Array]:
        with xla().precision(program.dtype):
            value, gradient = compiled(z.astype(kind), *program.constants)
            return float(value), np.asarray(gradient, np.float64)

    return call


class _Scale:
    """The map z = mean + L x from the coordinates that nutpie samples in."""

    def __init__(self, settings: Settings, size: int) -> None:
        self.mean: Array = np.zeros(size)
        self.root: Array | None = None
        self.metric = settings.metric
        if self.metric is not None:
            self.mean, self.root = self.metric.mean, self.metric.scale
            return
        if settings.mean is not None and settings.covariance is not None:
            covariance = settings.covariance.double().cpu().numpy()
            self.mean = settings.mean.double().cpu().numpy()
            self.root = np.sqrt(covariance) if covariance.ndim == 1 else np.linalg.cholesky(covariance)

    def forward(self, x: Array) -> Array:
        if self.metric is not None:
            return self.metric.forward(x)
        if self.root is None:
            return x
        return self.mean + (x * self.root if self.root.ndim == 1 else x @ self.root.T)

    def inverse(self, z: Array) -> Array:
        if self.metric is not None:
            return self.metric.inverse(z)
        if self.root is None:
            return z
        return (z - self.mean) / self.root if self.root.ndim == 1 else np.linalg.solve(self.root, z - self.mean)

    def moved(self, native: NativeGradient) -> NativeGradient:
        """The density as a function of x."""
        if self.root is None:
            return native
        directions = None if self.metric is None else (self.metric.basis, self.metric.stretch)
        return native.moved(self.mean, self.root, directions)

    def pull(self, gradient: Array) -> Array:
        """The gradient by x, given that by z."""
        if self.metric is not None:
            return self.metric.pull(gradient)
        if self.root is None:
            return gradient
        return gradient * self.root if self.root.ndim == 1 else gradient @ self.root


class Stopped(FitError):
    """nutpie gave up, as where a start has no gradient, which other kernels take."""


@dataclass(frozen=True)
class _Model:
    """What begins one chain, given its settings and who is told of divergences, and how many draws it has stored."""

    sampler: Callable[[Any, Callable[[int], None] | None], Any]
    done: Callable[[], int]


class _Chain:
    """One chain, which runs in a thread of nutpie's from here on."""

    def __init__(self, model: _Model, seed: int, settings: Settings) -> None:
        self._model = model
        chain = nutpie.options(
            seed, dense=settings.dense, warmup=settings.warmup, draws=settings.draws,
            max_depth=settings.max_tree_depth, target_accept=settings.target_accept,
        )  # fmt: skip
        self.divergences = 0
        self.sampler = model.sampler(chain, self._told if settings.progress.watched else None)

    def _told(self, divergences: int) -> None:
        self.divergences = divergences

    @property
    def done(self) -> int:
        """How many transitions it has done."""
        return self._model.done()


def _called_model(gradient: Gradient, scale: _Scale, start: Array) -> _Model:
    """A potential and its gradient in Python as nutpie's model of one chain."""
    done = 0

    def log_density(x: Array) -> tuple[float, Array]:
        value, slope = gradient(scale.forward(x))
        return -value, -scale.pull(slope)

    def stored(x: Array) -> dict[str, Array]:
        nonlocal done
        done += 1
        return {"x": x}

    return _Model(lambda chain, told: nutpie.called_sampler(chain, start, log_density, stored, told), lambda: done)


def _native_model(function: NativeGradient, start: Array) -> _Model:
    """A C function as nutpie's model of one chain."""
    calls = np.zeros(1, np.int64)

    def sampler(chain: Any, told: Callable[[int], None] | None) -> Any:
        address, data, identity = function.address, function.data, function.identity
        return nutpie.native_sampler(chain, start, address, data, identity, calls.ctypes.data, (function, calls), told)

    return _Model(sampler, lambda: int(calls[0]))


def _drive(chains: Mapping[int, _Chain], tables: dict[int, Table], settings: Settings) -> bool:
    """Waits for all chains and files what they drew in ``tables``; returns whether it was interrupted.

    nutpie does not say where a chain is, so that checkpoints have the chains that are done, and the others start again.
    """
    running, interrupted = dict(chains), False
    written = set(tables)

    def look(*, now: bool = False) -> None:
        new = {i: table for i, table in tables.items() if i not in written}
        if settings.keeper is not None and new and settings.keeper.look("nutpie", dict, lambda: new, now=now):
            written.update(new)

    def report() -> None:
        done = len(tables) * (settings.warmup + settings.draws) + sum(chain.done for chain in running.values())
        settings.progress.update(done, lambda: _line(list(running.values()), list(chains.values()), settings))

    with held() as pending:
        try:
            while running:
                for i, chain in list(running.items()):
                    if _finished(chain, POLL / len(running)):
                        tables[i] = _table(running.pop(i))
                    report()
                    pending.check()
                look()
        except KeyboardInterrupt:
            look(now=True)
            interrupted = True
        finally:
            for chain in running.values():
                nutpie.ended(chain.sampler)
    tables |= {i: _table(chain) for i, chain in running.items()}
    return interrupted


def _finished(chain: _Chain, seconds: float) -> bool:
    """Whether a chain is done, after waiting so long for it.

    Raises:
        Stopped: if the density could not be computed at all.
    """
    try:
        return nutpie.waited(chain.sampler, seconds)
    except RuntimeError as error:
        raise Stopped(
            f'nutpie stopped: {_first_line(error)} Fix: use kernel="numpyro"; if that finds nothing either, look at whether the '
            "posterior is proper, with lvm.smc or proper priors."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") + "."


def _line(running: Sequence[_Chain], chains: Sequence[_Chain], settings: Settings) -> str:
    slowest = min((chain.done for chain in running), default=settings.warmup)
    return stage(slowest < settings.warmup, sum(chain.divergences for chain in chains))


def _raw(
    tables: Sequence[Table],
    scale: _Scale,
    starts: Tensor,
    settings: Settings,
    interrupted: bool,
    seconds: dict[str, float],
    note: str,
) -> Raw:
    """The draws that all chains have, under ArviZ's names."""
    tuning = [table["tuning"].astype(bool) for table in tables]
    kept = min(int((~t).sum()) for t in tuning)

    def column(name: str) -> Array:
        return np.stack([table[name][~t][:kept] for table, t in zip(tables, tuning, strict=True)])

    draws = scale.forward(column("x").reshape(len(tables), kept, starts.shape[1]))
    steps = column("n_steps").astype(int)
    depth = depths(steps)  # nutpie's own leaves out the last doubling where it turned back
    stats = {
        "diverging": column("diverging").astype(bool),
        "acceptance_rate": column("mean_tree_accept").astype(float),
        "step_size": column("step_size").astype(float),
        "tree_depth": depth,
        "n_steps": steps,
        "energy": column("energy").astype(float),
        "reached_max_treedepth": depth >= settings.max_tree_depth,
    }
    warmup_steps = np.array([int(table["n_steps"][t].sum()) for table, t in zip(tables, tuning, strict=True)])
    return Raw(
        torch.from_numpy(draws).to(starts),
        stats,
        warmup_steps,
        interrupted,
        -column("logp").astype(float),
        seconds,
        note,
    )


def _table(chain: _Chain) -> Table:
    """What a chain stored, by name."""
    names = ("tuning", "diverging", "mean_tree_accept", "step_size", "n_steps", "energy", "logp")
    return nutpie.trace(chain.sampler, names)
