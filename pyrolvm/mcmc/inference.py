"""``lvm.nuts``: the No-U-Turn sampler on the same problem, without rewriting the model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm.density import Joint, map_draws
from pyrolvm.errors import ArgumentError, FitError, ProblemError, PyrolvmWarning, positive_int, unknown_name
from pyrolvm.mcmc import pyro_kernel
from pyrolvm.posterior import Chains, Fit
from pyrolvm.posterior.build import chains_tree, variable
from pyrolvm.program.problem import Problem, check_problem
from pyrolvm.progress import Progress

__all__ = ["nuts"]

ENGINES = {"pyro": pyro_kernel.run}
"""What runs the chains, by name: a function like :func:`pyrolvm.mcmc.pyro_kernel.run`."""

STARTS = 100


def nuts(
    problem: Problem,
    *,
    chains: int = 4,
    warmup: int = 1000,
    draws: int = 1000,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    init: Fit | Mapping[str, Any] | None = None,
    engine: str = "auto",
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool = False,
) -> Chains:
    """Samples a problem's posterior with NUTS, several chains.

    Discrete latents with finitely many values are summed out, and drawn afterwards given the rest. A model that
    subsamples by itself is run on all its rows. An interrupt (Ctrl-C) keeps the draws that all chains have.

    Args:
        problem: a model with its data.
        chains: number of chains; at least two are needed for a trusted verdict.
        warmup: transitions of each chain that adapt step size and mass matrix, and are dropped.
        draws: transitions of each chain that are kept.
        target_accept: mean acceptance probability to adapt to, between 0 and 1; nearer to 1 is slower and diverges less.
        max_tree_depth: bound on the doublings of a trajectory.
        init: where to start: a :class:`~pyrolvm.posterior.Fit` (draws from it; also its learnable model parameters), or
            values by site; by default uniform in (-2, 2) on the unconstrained scale.
        engine: ``"pyro"``, or ``"auto"``.
        device: as in :func:`pyrolvm.fit`; ``"auto"`` leaves the problem where its data are.
        dtype: a floating dtype to run in; by default the data's.
        seed: makes the run repeatable.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same problem and seed.

    Raises:
        ArgumentError: if an argument is out of range.
        ProblemError: if there is nothing continuous to sample, or a parameter without a prior and without a fit.
        FitError: if no start has a finite density, or the run is interrupted before the first kept draw.

    References:
        Hoffman and Gelman, The No-U-Turn Sampler, https://arxiv.org/abs/1111.4246
        Betancourt, A Conceptual Introduction to Hamiltonian Monte Carlo, https://arxiv.org/abs/1701.02434
    """
    check_problem(problem)
    if engine not in ("auto", *ENGINES):
        raise unknown_name("engine", engine, ("auto", *ENGINES))
    for name, value in (("chains", chains), ("draws", draws), ("max_tree_depth", max_tree_depth)):
        positive_int(name, value)
    positive_int("warmup", warmup, minimum=0)
    seed = positive_int("seed", seed, minimum=0)
    if isinstance(target_accept, bool) or not isinstance(target_accept, int | float) or not 0 < target_accept < 1:
        raise ArgumentError(
            f"target_accept must lie between 0 and 1, got {target_accept!r}. Fix: use 0.8, or 0.95 to diverge less."
        )
    _check_problem(problem, init)
    problem = problem.to(dtype=dtype, device=None if str(device) == "auto" else device)
    if out is not None:
        from pyrolvm import store

        finished = store.claim(out, problem, None, seed, resume=resume)
        if finished is not None:
            return finished
    started = time.perf_counter()
    params = dict(init.params) if isinstance(init, Fit) else {}
    seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(chains)]
    with problem.session(seed=seed, params=params):
        joint = Joint(problem)
        starts = _starts(joint, init, chains, seed)
        set_up = time.perf_counter()
        with Progress(f"nuts on {problem.name}", chains * (warmup + draws), progress) as bar:
            raw = ENGINES["pyro"](
                joint, starts, seeds,
                warmup=warmup, draws=draws, target_accept=target_accept, max_tree_depth=max_tree_depth, progress=bar,
            )  # fmt: skip
        if not raw.draws.shape[1]:
            raise FitError(
                "interrupted before every chain had a draw after warmup. Fix: run again, with a smaller warmup."
            )
        sampled = time.perf_counter()
        flat = raw.draws.reshape(-1, problem.unconstrained_size)
        with torch.no_grad():
            values = map_draws(lambda draw: joint.constrain(draw["z"]), {"z": flat})
        attrs = {
            "inference_method": "nuts", "engine": "pyro", "seed": seed, "warmup": warmup, "target_accept": target_accept,
            "interrupted": int(raw.interrupted), "sampling_time": sampled - set_up,
        }  # fmt: skip
        tree = chains_tree(problem, values, chains, raw.stats, attrs)
    seconds = {"setup": set_up - started, "run": sampled - set_up, "draws": time.perf_counter() - sampled}
    result = Chains(
        name="nuts", data=tree, problem=problem, params=params, seconds=seconds,
        engine="pyro", engine_reason="stock Pyro NUTS", seed=seed,
    )  # fmt: skip
    if out is not None:
        result.save(out, overwrite=True)
    return result


def _check_problem(problem: Problem, init: Any) -> None:
    if not problem.continuous:
        raise ProblemError(
            f"{problem.name} has no continuous latent site, so there is nothing for NUTS to sample. "
            "Fix: give its unknowns priors, or use lvm.fit."
        )
    if problem.parameters and not isinstance(init, Fit):
        raise ProblemError(
            f"{problem.name} has learnable parameters without priors ({', '.join(list(problem.parameters)[:3])}, ...), which NUTS "
            "does not sample. Fix: give them priors with pyro.sample, or pass init=fit to hold them at fitted values."
        )
    for plate in problem.plates.values():
        if plate.subsampled:
            warnings.warn(
                f"plate {plate.name!r} subsamples its {plate.size} rows; NUTS on subsamples does not target the posterior, so all "
                f"rows are used. Fix: write pyro.plate({plate.name!r}, {plate.size}) to make this explicit.",
                PyrolvmWarning,
                stacklevel=3,
            )


def _starts(joint: Joint, init: Any, chains: int, seed: int) -> Tensor:
    """A starting point of finite density for each chain, shape ``(chains, unconstrained_size)``.

    Raises:
        FitError: if 100 tries find none, with the log density of every site.
    """
    size = joint.problem.unconstrained_size
    like = torch.zeros((), dtype=joint.problem.dtype, device=joint.problem.device)
    if init is None:
        candidates = 4 * torch.rand(chains + STARTS, size, dtype=like.dtype, device=like.device) - 2
    else:
        candidates = _given_starts(joint, init, chains, seed).to(like)
    found = []
    for z in candidates:
        point = z.clone().requires_grad_(True)
        potential = joint.potential(point)
        (gradient,) = torch.autograd.grad(potential, point)
        if bool(torch.isfinite(potential)) and bool(torch.isfinite(gradient).all()):
            found.append(z)
        if len(found) == chains:
            return torch.stack(found)
    with torch.no_grad():
        table = joint.site_log_probs(joint.constrain(candidates[0]))
    listing = ", ".join(f"{name}: {value:.4g}" for name, value in table.items())
    raise FitError(
        f"no start with a finite density was found for {joint.problem.name!r} in {len(candidates)} tries. Log densities by site at "
        f"the first: {listing}. Fix: look at the sites that are not finite: data outside the likelihood's support, or a scale far off."
    )


def _given_starts(joint: Joint, init: Any, chains: int, seed: int) -> Tensor:
    problem = joint.problem
    sites = [site.name for site in problem.continuous]
    if isinstance(init, Fit):
        dataset = init.sample(4 * chains, seed=seed)
        values = {name: torch.as_tensor(dataset[variable(name)].values[0]) for name in sites}
    elif isinstance(init, Mapping):
        missing = [name for name in sites if name not in init]
        if missing:
            raise ArgumentError(
                f"init has no value for site {missing[0]!r}. Fix: give one for each of {', '.join(sites)}, or pass a Fit."
            )
        values = {
            name: _start_value(problem, name, init[name]).expand(chains, *problem.sites[name].shape) for name in sites
        }
    else:
        raise ArgumentError(
            f"init must be a Fit or values by site, got {type(init).__name__}. Fix: pass init=lvm.fit(problem)."
        )
    moved = {name: value.to(dtype=problem.dtype, device=problem.device) for name, value in values.items()}
    with torch.no_grad():
        return map_draws(lambda draw: {"z": joint.flatten(joint.unconstrain(draw))}, moved)["z"]


def _start_value(problem: Problem, name: str, given: Any) -> Tensor:
    """The value to start a site at.

    Raises:
        ArgumentError: if it has another shape than the site, or lies outside its support.
    """
    site = problem.sites[name]
    value = torch.as_tensor(given).to(dtype=problem.dtype, device=problem.device)
    if tuple(value.shape) not in ((), site.shape):
        raise ArgumentError(
            f"init for site {name!r} has shape {tuple(value.shape)}, expected {site.shape}. Fix: give one value for each element."
        )
    if not bool(site.support.check(value.expand(site.shape)).all()):
        raise ArgumentError(
            f"init for site {name!r} lies outside its support {site.support}. Fix: give a value inside it."
        )
    return value
