"""What a model and its guide are made of: the plate whose rows have latents of their own, and what all rows share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, GuideError, ProblemError
from pyrolvm._compat.pyro import is_subsample
from pyrolvm._methods.fit.objectives.base import traces
from pyrolvm._program.peeling import innermost
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.traces import Trace
from pyrolvm.family.protocol import Hooks

__all__ = ["Structure", "read_structure", "row_densities", "row_scores", "sites"]

PICKS = 8
"""Runs that tell rows that a plate picks at random from rows that it is given: two of four are the same in all once in 4e8."""


@dataclass(frozen=True)
class Structure:
    """How a density falls apart.

    Attributes:
        plate: the plate whose rows are independent given what is shared; ``None`` where all is one.
        dim: its dimension.
        shared: the guide's sites that are drawn once for all rows and draws.
        outside: whether the model has densities outside the plate.
        scored: the first of the guide's redrawn sites that cannot be reparameterised; empty if there is none.
        cheap: whether the guide scores a value that it did not draw as fast as its own.
        coupled: why there is no such plate.
    """

    plate: str | None
    dim: int
    shared: frozenset[str]
    outside: bool
    scored: str
    cheap: bool
    coupled: str = ""


def sites(trace: Trace) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The sample sites that have a density."""
    return ((n, node) for n, node in trace.nodes.items() if is_random(node) and not is_deterministic(node))


def read_structure(
    model: Callable[..., object],
    guide: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    bound: str,
) -> Structure:
    """Runs both programs once.

    Args:
        model: the model.
        guide: its guide.
        args: their arguments.
        kwargs: their keyword arguments.
        bound: ``"rows"``, ``"joint"`` or ``"auto"``.

    Raises:
        GuideError: if the guide leaves a latent site out.
        ProblemError: if ``"rows"`` is asked for and there is no plate for it.
    """
    model_trace, guide_trace = traces(model, guide, args, kwargs)
    left_out = [n for n, node in sites(model_trace) if not node["is_observed"] and n not in guide_trace.nodes]
    if left_out:
        raise GuideError(
            f"guide leaves out the site {left_out[0]!r}, which the importance-weighted bound does not sum out. "
            f'Fix: sample it in the guide, or use objective="TraceEnum_ELBO".'
        )
    why: list[str] = []
    plate = None if bound == "joint" else next(_row_plates(model_trace, guide_trace, why), None)
    if plate is None and bound == "rows":
        what = why[0] if why else "no plate holds a latent site that the guide draws there"
        raise ProblemError(
            f"the model has no bound for each row: {what}. "
            'Fix: sample what all rows share first, in model and guide, and the rest inside one plate; or use bound="joint".'
        )
    inside = {name for name, node in sites(guide_trace) if plate and plate in _frames(node)}
    shared = {name for name, _ in sites(guide_trace) if plate and name not in inside}
    shared |= _picked(guide, guide_trace, args, kwargs)
    drawn = {name: node for name, node in sites(guide_trace) if name not in shared}
    return Structure(
        plate=plate,
        dim=0 if plate is None else next(_frames(n)[plate].dim for n in drawn.values() if plate in _frames(n)),
        shared=frozenset(shared),
        outside=plate is not None and any(plate not in _frames(node) for _, node in sites(model_trace)),
        scored=next((name for name, node in drawn.items() if not node["fn"].has_rsample), ""),
        cheap=all(_scores_cheaply(node["fn"]) for node in drawn.values()) or Hooks(guide).scores_cheaply,
        coupled="" if plate else (why[0] if why else ""),
    )


def _frames(node: Mapping[str, Any]) -> dict[str, Any]:
    return {frame.name: frame for frame in node["cond_indep_stack"] if frame.dim is not None}


def _picked(
    guide: Callable[..., object], trace: Trace, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> set[str]:
    """Plates that pick their rows at random, which must be the same ones in every draw."""

    def picks(trace: Trace) -> dict[str, Tensor]:
        found = {n: node for n, node in trace.nodes.items() if is_subsample(node.get("fn"))}
        return {
            n: node["value"]
            for n, node in found.items()
            if (node["fn"].subsample_size or node["fn"].size) < node["fn"].size
        }

    first = picks(trace)
    if not first:
        return set()
    runs = [picks(poutine.trace(guide).get_trace(*args, **kwargs)) for _ in range(PICKS)]
    return {name for name, rows in first.items() if not all(torch.equal(rows, run[name]) for run in runs)}


def _row_plates(model_trace: Trace, guide_trace: Trace, why: list[str]) -> Iterator[str]:
    """The plates that fall apart into rows, the largest first; ``why`` takes what is wrong with the others."""
    found: dict[str, int] = {}
    for name, node in sites(model_trace):
        if not node["is_observed"]:
            held = _frames(guide_trace.nodes[name])
            found.update(
                {frame.name: frame.full_size or frame.size for frame in _frames(node).values() if frame.name in held}
            )
    for plate in sorted(found, key=lambda p: -found[p]):
        redrawn = [n for n, node in sites(guide_trace) if plate in _frames(node) and not _is_point(node["fn"])]
        stray = _first_after(model_trace, plate) or _first_after(guide_trace, plate)
        if not redrawn:
            why.append(
                f"the guide draws the latent sites of plate {plate!r} together with all others, outside the plate"
            )
        elif stray:
            why.append(
                f"site {stray!r} is outside plate {plate!r} and comes after its latent sites, so it may depend on them"
            )
        else:
            yield plate


def _first_after(trace: Trace, plate: str) -> str:
    """The first site outside the plate that comes after a latent one inside it."""
    began = False
    for name, node in sites(trace):
        if plate in _frames(node):
            began = began or not node["is_observed"]
        elif began:
            return name
    return ""


def _is_point(fn: dist.TorchDistribution) -> bool:
    return isinstance(innermost(fn), dist.Delta)


def _scores_cheaply(fn: torch.distributions.Distribution) -> bool:
    base = innermost(fn)
    if isinstance(base, torch.distributions.TransformedDistribution):
        learned = (torch.nn.Module,)
        return not any(isinstance(t, learned) for t in base.transforms) and _scores_cheaply(base.base_dist)
    return True


# --- densities --------------------------------------------------------------------------------------------------------


def row_densities(
    trace: Trace, structure: Structure, many: bool, tempered: float | Tensor = 1.0
) -> tuple[Tensor, Tensor, float]:
    """Log densities of a run: each row's, shape ``(rows,)``, the sum of all others', and the scale of a row.

    Args:
        trace: the run.
        structure: what is a row.
        many: whether several draws are weighed against each other, which random subsets of rows do not allow.
        tempered: a power for the densities of unobserved sites.
    """
    rows: list[Tensor] = []
    others: list[Tensor] = []
    scale = 1.0
    for name, node in sites(trace):
        power = 1.0 if node["is_observed"] else tempered
        frames = _frames(node)
        row = frames.get(structure.plate or "")
        if structure.plate is not None and row is None:
            term = torch.as_tensor(scale_and_mask(_log_density(node), node["scale"], node["mask"]))
            others.append((power * term).sum())
            continue
        factor = 1.0
        for frame in frames.values():
            part = (frame.full_size or frame.size) / frame.size
            if frame is row:
                factor = scale = part
            elif part != 1.0 and many:
                _refuse_subsample(name, frame.name, structure)
        term = torch.as_tensor(scale_and_mask(_log_density(node), 1.0, node["mask"]))
        rest = node["scale"] / factor
        if isinstance(rest, Tensor) or abs(rest - 1) > 1e-9:
            power = power * rest
        rows.append(_by_row(term if isinstance(power, float) and power == 1.0 else power * term, structure))
    zero = torch.zeros(())
    return torch.stack(rows).sum(0) if rows else zero, torch.stack(others).sum() if others else zero, scale


def row_scores(trace: Trace, structure: Structure) -> tuple[Tensor, Tensor]:
    """Score-function terms of a guide's run: each row's, shape ``(rows,)``, and the sum of all others'; zero where there are none."""
    rows, others = [], []
    for _, node in sites(trace):
        part = node["fn"].score_parts(node["value"]).score_function
        if is_identically_zero(part):
            continue
        if structure.plate is not None and structure.plate not in _frames(node):
            others.append(part.sum())
        else:
            rows.append(_by_row(part, structure))
    zero = torch.zeros(())
    return torch.stack(rows).sum(0) if rows else zero, torch.stack(others).sum() if others else zero


def _log_density(node: Mapping[str, Any]) -> Tensor:
    fn = node["fn"]
    if type(fn) is dist.Delta:
        # Its value is the point by construction; compiled twice, the point may come out different in its last digit.
        return fn.log_density
    return fn.log_prob(node["value"])


def _by_row(term: Tensor, structure: Structure) -> Tensor:
    """Sums a site's terms over everything but the rows."""
    if structure.plate is None:
        return term.sum().reshape(1)
    return term.movedim(structure.dim, 0).flatten(1).sum(1) if term.dim() > 1 else term


def _refuse_subsample(site: str, plate: str, structure: Structure) -> None:
    if structure.plate is None:
        why = f": {structure.coupled}" if structure.coupled else ""
        raise ArgumentError(
            f"plate {plate!r} around site {site!r} is subsampled, and the importance-weighted bound is one for all rows{why}. The "
            "logarithm of a mean of random subsets' weights is no bound. "
            'Fix: take all rows, use objective="Trace_ELBO", or sample what all rows share first and the rest inside the plate.'
        )
    raise ArgumentError(
        f"plate {plate!r} around site {site!r} is subsampled inside the rows of plate {structure.plate!r}, and the logarithm of a "
        "mean of random subsets' weights is no bound. Fix: take all rows of the inner plate."
    )
