"""``lvm.exact``: independent draws of the posterior itself and the evidence, where the model's structure gives them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pyrolvm import _runs as runs
from pyrolvm._base.errors import ProblemError, PyrolvmError, checked_seed, positive_int
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.progress import Progress
from pyrolvm._laws.recognition import check_sites, recognised
from pyrolvm._methods.arguments import held_parameters
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._results import Exact, Posterior, store
from pyrolvm._results.afresh import check_afresh
from pyrolvm._results.build import default_draws, exact_tree

__all__ = ["exact"]

TOLERANCE = 1e-8
"""Largest share of the log densities' size by which log p - log q may differ from the evidence."""

SIGMAS = 6.0
"""Standard errors within which frequencies of drawn discrete values must be their probabilities."""


@verb
@at_the_door
def exact(
    problem: Problem,
    *,
    draws: int | None = None,
    params: Posterior | Mapping[str, Tensor] | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
) -> Exact:
    """Draws from a problem's posterior itself, with its normalised density and the evidence; or says why it cannot.

        >>> line = lvm.Problem(lambda y: pyro.sample("y", dist.Normal(pyro.sample("mu", dist.Normal(0.0, 1.0)), 1.0), obs=y), [1.3])
        >>> lvm.exact(line).evidence  # log N(1.3; 0, sqrt 2)

    What is recognised, from the program's trace and graph: models that are jointly Gaussian (any locations that are affine in the
    latents, any fixed covariances), also given each value of a few discrete latents or of each row's; models whose latents are all
    discrete with finitely many values; Beta, Gamma, inverse Gamma and Dirichlet posteriors; normal-gamma posteriors. Nothing is
    returned whose log joint minus log posterior is not the evidence at every draw. Everything is computed in double precision.

    Args:
        problem: a model with its data. A model that subsamples by itself is run on all its rows.
        draws: independent draws to keep; by default 4,000, fewer where they would fill the memory.
        params: values at which learnable model parameters are held: a result that was fitted, or unconstrained values by store
            name; by default the values that they have now.
        device: where to run, as in :func:`pyrolvm.fit`; ``"auto"`` leaves the problem where its data are.
        seed: the same seed gives the same draws.
        progress: whether to show a bar; or a function of ``(done, total, text)``.
        out: a folder to save the result in.
        resume: with ``out``: return the finished result that is there, if it is of the same problem, parameters, draws and seed; a run
            that was killed is run again. ``"any-version"`` under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.

    Raises:
        ArgumentError: if an argument is out of range.
        ProblemError: if the posterior is not one of these, naming the site that stands in the way; if it is improper, naming the
            direction.
        StoreError: if ``out`` holds something else.

    References:
        Bishop, *Pattern Recognition and Machine Learning* (2006), chapters 2, 3, 12 and 13
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite)
    seed = checked_seed(seed)
    if draws is not None:
        positive_int("draws", draws)
    held = held_parameters(problem, params)
    check_sites(problem)
    problem = _in_doubles(problem, device)

    def work(run: runs.Run | None) -> Exact:
        return _run(problem, draws, held, seed, progress)

    return cast("Exact", store.keep(asked, exact, given, work, problem, kind="Exact", params=held))


def _run(
    problem: Problem,
    draws: int | None,
    held: dict[str, Tensor],
    seed: int,
    progress: bool | Callable[[int, int, str], None],
) -> Exact:
    started = time.perf_counter()
    with problem.session(seed=seed, params=held), Progress(f"exact on {problem.name}", 2, progress) as bar:
        law = recognised(problem)
        found = time.perf_counter()
        bar.update(1, lambda: f"{law.family}; drawing")
        values, log_q = law.draw(draws or default_draws(problem))
        attrs = {
            "inference_method": "exact", "engine": "torch", "seed": seed, "family": law.family, "because": law.because,
            "parameters_held": ", ".join(problem.parameters), "sampling_time": time.perf_counter() - found,
        }  # fmt: skip
        try:
            tree = exact_tree(problem, values, log_q, law.evidence, dict(law.marginals), attrs)
        except PyrolvmError:
            raise
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise ProblemError(
                f"the density of {problem.name} cannot be evaluated at draws of its posterior: {str(error).splitlines()[0]} "
                "Fix: use lvm.infer(problem) or lvm.nuts(problem)."
            ) from error
        bar.update(2, lambda: "verified")
    check_afresh(tree, problem, held, seed=seed)
    result = Exact(
        name="exact", data=tree, problem=problem, params=held, engine="torch", engine_reason=law.family, seed=seed,
        seconds={"setup": found - started, "draws": time.perf_counter() - found},
    )  # fmt: skip
    _verify(result)
    return result


def _in_doubles(problem: Problem, device: str | torch.device) -> Problem:
    """The problem in double precision.

    Raises:
        ProblemError: if its model does not run in it.
    """
    where = None if str(device) == "auto" else device
    try:
        return problem.to(dtype=torch.float64, device=where)
    except ProblemError as error:
        raise ProblemError(
            f"{problem.name} does not run in double precision, in which exact posteriors are computed: "
            f"{str(error).split(' Fix: ')[0]} Fix: give the tensors that the model closes over as its arguments, or make them doubles."
        ) from error


def _verify(result: Exact) -> None:
    """Refuses a result whose density is not the posterior's at its own draws, or whose draws are not from it.

    Raises:
        ProblemError: with what was found.
    """
    evidence = float(result.data["sample_stats"]["log_evidence"])
    log_p, log_q = result.log_p, np.asarray(result.log_q)
    with np.errstate(invalid="ignore"):
        gap = np.abs(log_p - log_q - evidence) / (1 + np.abs(log_p) + np.abs(log_q))
    if not np.all(gap <= TOLERANCE):
        raise _refused(
            result, f"log p - log q differs from the evidence {evidence:.6f} by up to {np.nanmax(gap):.2g} of its size"
        )
    marginals = result.marginals
    if marginals is None:
        return
    drawn = result.data["posterior"].to_dataset()
    for name, wanted in marginals.data_vars.items():
        draws = drawn[name].values.reshape(result.num_draws, -1)
        share = wanted.values.reshape(-1, wanted.shape[-1])
        support = np.asarray(wanted.coords[wanted.dims[-1]].values)
        if draws.shape[1] != len(share):
            continue  # values that are vectors themselves
        for place, value in enumerate(support):
            off = np.abs((draws == value).mean(0) - share[:, place])
            allowed = SIGMAS * np.sqrt(share[:, place] * (1 - share[:, place]) / len(draws)) + 2 * SIGMAS / len(draws)
            if not np.all(off <= allowed):
                raise _refused(
                    result,
                    f"draws of {name!r} take the value {value} {off.max():.3f} more or less often than they should",
                )


def _refused(result: Exact, what: str) -> ProblemError:
    return ProblemError(
        f"the posterior of {result.attached.name} looks like one of a known form ({result.family}), but {what}, so it is not. "
        "Fix: use lvm.infer(problem) or lvm.nuts(problem)."
    )
