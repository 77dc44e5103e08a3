"""Whether the draws of a posterior are of the latents that a prediction runs with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrolvm._base.errors import ProblemError
from pyrolvm._check.predict.members import Kept, known_terms
from pyrolvm._check.predict.onward import check_onward
from pyrolvm._check.predict.running import Predicting, prior_terms
from pyrolvm._check.predict.setting import Setting
from pyrolvm._program.batching import Batch
from pyrolvm._program.problem import Problem
from pyrolvm._results import Posterior

__all__ = ["check_laws", "check_priors"]


def check_laws(posterior: Posterior, found: Setting, values: Mapping[str, Tensor]) -> None:
    """Refuses laws that tie rows together and are other laws of the fit's rows where new ones come behind them."""
    draw = {name: value[0] for name, value in values.items()}
    one = Predicting(found.new, found.kept, found.predicted, mean=False, going=found.going)
    onwards = {name: kept for name, kept in found.kept.items() if kept.onward is not None}
    if not onwards and not found.going:
        return
    old = Batch.of(found.old, None)
    with found.old.session(seed=0, params=posterior.params), torch.no_grad():
        nodes: Mapping[str, Any] = old.trace(found.old, draw).nodes
        before = {name: torch.as_tensor(nodes[name]["log_prob_sum"]) for name in (*onwards, *found.going)}
    with found.new.session(seed=0, params=posterior.params), torch.no_grad():
        now = one.run(draw)
        for name, kept in onwards.items():
            assert kept.onward is not None
            check_onward(now[name]["fn"], draw[name], kept.onward, before[name], name)
        for name, going in found.going.items():
            check_onward(now[name]["fn"], going.known, going.axis, before[name], name)


def check_priors(posterior: Posterior, found: Setting, values: Mapping[str, Tensor], said: set[str]) -> None:
    """Refuses to keep draws of a latent whose distribution the new arguments change: they are of another latent.

    Raises:
        ProblemError: naming it. Not of members of a plate that are said to be known.
    """
    old, new, kept, given = found.old, found.new, found.kept, found.asked.given
    draw = {name: value[0] for name, value in values.items()}
    as_before = {name: Kept({}) for name in kept}

    def terms(problem: Problem, which: Mapping[str, Kept], batch: Batch | None = None) -> dict[str, Tensor]:
        with problem.session(seed=0, params=posterior.params), torch.no_grad():
            return prior_terms(problem, draw, which, batch)

    before, now = terms(old, as_before), terms(new, kept)
    if found.behind is not None:
        given = frozenset()  # the fit's rows have their own arguments still
    try:  # a law may be the same at these arguments, as a stationary process is at shifted places, and still be one of them
        moved = terms(old, as_before, _moved(old, given))
    except (RuntimeError, ValueError, IndexError, KeyError):
        moved = before
    for name in before.keys() & now.keys():
        site = new.sites[name]
        was, is_ = known_terms(kept[name], site.event_dim, before[name], now[name])
        same = _alike(was, is_) and (bool(site.plates) or _alike(before[name], moved.get(name, before[name])))
        if not same and not said & set(site.plates):
            plate = next((plate for plate in site.plates), "")
            fix = "write the new values as sites of their own"
            if plate:
                fix = f'members={{"{plate}": "new"}} draws it anew, members={{"{plate}": "same"}} keeps it'
            raise ProblemError(
                f"the distribution of latent {name!r} of {new.name} depends on the new arguments, so that its draws are not of these. "
                f"Fix: {fix}."
            )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-3, equal_nan=True)


def _moved(old: Problem, given: frozenset[str]) -> Batch:
    """The fit's rows, with other values of the arguments that are given anew: in another order and on another scale."""
    whole, names = Batch.of(old, None), list(old.arguments)

    def other(name: str, value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point() and bool(value.dim())
        return 1.5 * value.roll(1, 0) if name in given and floats else value

    args = tuple(other(name, value) for name, value in zip(names, whole.args, strict=False))
    return Batch(args, {name: other(name, value) for name, value in whole.kwargs.items()}, whole.plates)
