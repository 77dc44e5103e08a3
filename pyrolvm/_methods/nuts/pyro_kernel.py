"""NUTS on stock Pyro: its kernel, driven draw by draw, several chains in turn in one process.

Chains take turns in blocks of draws, each with a random state of its own. So nothing is pickled, no worker can hang,
and an interrupt finds every chain equally far; and a chain's draws depend on its own seed only, not on how many others run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from pyrolvm._base.interrupts import Held, held
from pyrolvm._base.numerics import Array
from pyrolvm._compat.pyro_mcmc import RecordingNUTS
from pyrolvm._methods.nuts.base import Raw, Settings, depths, stage
from pyrolvm._methods.nuts.checkpoint import attributes, restore_attributes
from pyrolvm._program.density import Joint

__all__ = ["run"]

BLOCK = 20


@dataclass
class _Chain:
    kernel: RecordingNUTS
    position: dict[str, Tensor]
    state: Tensor
    warmup: int
    done: int = 0
    warmup_steps: int = 0
    draws: list[Tensor] = field(default_factory=list)
    stats: list[tuple[float, ...]] = field(default_factory=list)

    def advance(self, count: int, pending: Held) -> None:
        """Takes ``count`` transitions with this chain's own random numbers, fewer where it is asked to stop."""
        torch.set_rng_state(self.state)
        try:
            for _ in range(count):
                pending.check()
                self._transition()
        finally:
            self.state = torch.get_rng_state()

    def snapshot(self) -> dict[str, object]:
        """Where it is, as nested values of numbers and tensors."""
        return {
            "kernel": attributes(self.kernel), "position": self.position, "random": self.state, "done": self.done,
            "warmup_steps": self.warmup_steps,
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from there; draws are added apart."""
        restore_attributes(self.kernel, saved["kernel"])
        self.position, self.state = saved["position"], saved["random"]
        self.done, self.warmup_steps = saved["done"], saved["warmup_steps"]

    def drawn(self, start: int) -> dict[str, object]:
        """The draws from the ``start``-th on."""
        if len(self.draws) == start:
            return {}
        return {"draws": torch.stack(self.draws[start:]), "stats": np.array(self.stats[start:], dtype=float)}

    def _transition(self) -> None:
        kernel = self.kernel
        before, mean, divergences = kernel.evaluations, kernel.mean_accept_prob, kernel.divergences
        step_size = float(kernel.step_size)
        self.position = kernel.sample(self.position)
        self.done += 1
        steps = kernel.evaluations - before
        if self.done <= self.warmup:
            self.warmup_steps += steps
            return
        count = self.done - self.warmup
        accepted = mean + (kernel.mean_accept_prob - mean) * count if count > 1 else kernel.mean_accept_prob
        accepted = min(max(accepted, 0.0), 1.0)  # the difference of running means leaves the interval by rounding
        self.draws.append(self.position["z"].detach().clone())
        self.stats.append((kernel.divergences > divergences, accepted, step_size, steps, kernel.energy))


def run(joint: Joint, starts: Tensor, seeds: Sequence[int], settings: Settings) -> Raw:
    """Runs one chain from each start; must be called inside a session.

    Args:
        joint: the density.
        starts: unconstrained starting points, shape ``(chains, unconstrained_size)``.
        seeds: one seed a chain.
        settings: how to run.
    """
    chains = [_start(joint, z, seed, settings) for z, seed in zip(starts, seeds, strict=True)]
    interrupted = _drive(chains, settings)
    kept = min(len(chain.draws) for chain in chains)
    names = ("diverging", "acceptance_rate", "step_size", "n_steps", "energy")
    table = np.array([chain.stats[:kept] for chain in chains], dtype=float).reshape(len(chains), kept, len(names))
    stats: dict[str, Array] = {name: table[:, :, i] for i, name in enumerate(names)}
    stats["diverging"] = stats["diverging"].astype(bool)
    stats["n_steps"] = stats["n_steps"].astype(int)
    stats["tree_depth"] = depths(stats["n_steps"])
    stats["reached_max_treedepth"] = stats["tree_depth"] >= settings.max_tree_depth
    flat = torch.stack([torch.stack(chain.draws[:kept]) for chain in chains]) if kept else starts[:, None][:, :0]
    return Raw(flat, stats, np.array([chain.warmup_steps for chain in chains]), interrupted)


def _drive(chains: list[_Chain], settings: Settings) -> bool:
    """Takes all chains to the end in turn; returns whether it was interrupted."""
    total, keeper = settings.warmup + settings.draws, settings.keeper
    saved = None if keeper is None else keeper.begin("pyro")
    if saved is not None:
        state, chunks = saved
        for chain, one in zip(chains, state["chains"], strict=True):
            chain.restore(one)
        for chunk in chunks:
            for chain, rows in zip(chains, chunk, strict=True):
                if rows:
                    chain.draws += list(rows["draws"])
                    chain.stats += [tuple(row) for row in rows["stats"]]
    written = [len(chain.draws) for chain in chains]

    def new() -> bool:
        return any(len(chain.draws) > start for chain, start in zip(chains, written, strict=True))

    def look(*, now: bool = False) -> None:
        if keeper is not None and keeper.look(
            "pyro",
            lambda: {"chains": [chain.snapshot() for chain in chains]},
            lambda: [chain.drawn(start) for chain, start in zip(chains, written, strict=True)] if new() else None,
            now=now,
        ):
            written[:] = [len(chain.draws) for chain in chains]

    with held() as pending:
        try:
            while (behind := min(chain.done for chain in chains)) < total:
                end = min(behind + BLOCK, total)
                for chain in chains:
                    chain.advance(end - chain.done, pending)
                    settings.progress.update(sum(c.done for c in chains), lambda: _line(chains))
                    pending.check()
                    look()
        except KeyboardInterrupt:
            look(now=True)
            return True
    return False


def _start(joint: Joint, z: Tensor, seed: int, settings: Settings) -> _Chain:
    pyro.set_rng_seed(seed)
    kernel = RecordingNUTS(
        joint.potential, target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth,
        full_mass=settings.dense,
    )  # fmt: skip
    kernel.initial_params = {"z": z}
    kernel.setup(settings.warmup)
    if settings.covariance is not None:
        kernel.mass_matrix_adapter.inverse_mass_matrix = {("z",): settings.covariance.to(z)}
        kernel.restart_step_size({"z": z})
    return _Chain(kernel, {"z": z}, torch.get_rng_state(), settings.warmup)


def _line(chains: Sequence[_Chain]) -> str:
    slowest = min(chain.done for chain in chains)
    return stage(slowest < chains[0].warmup, sum(chain.kernel.divergences for chain in chains))
