"""The log joint density of a stored draw by stock Pyro: the program as it was written, conditioned on the draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate

import pyrolvm as lvm
from tests.programs.cases import Case

__all__ = ["stock_log_p"]


def stock_log_p(case: Case, problem: lvm.Problem, result: Any, draw: int, *, drawn: bool = False) -> float:
    """The density of one draw of the first chain, with discrete latents at their values if they are ``drawn``, else summed out."""
    posterior = result.data["posterior"]
    values = {
        site.name: torch.as_tensor(np.array(posterior[lvm_name(site.name)].values[0, draw]))
        for site in (problem.latents if drawn else problem.continuous)
    }
    model = poutine.condition(case.model, data=values)
    with problem.session(seed=0, params=result.params), problem.whole.active(), torch.no_grad():
        if problem.discrete and not drawn:
            nesting = max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)
            elbo = TraceEnum_ELBO(max_plate_nesting=nesting)
            return -float(
                elbo.loss(
                    config_enumerate(_together(model), "parallel"), lambda *_, **__: None, *case.args, **case.kwargs
                )
            )
        trace = poutine.trace(model).get_trace(*case.args, **case.kwargs)
        predicted = {site.name for site in problem.predicted}
        return float(trace.log_prob_sum(lambda name, _: name not in predicted))


def lvm_name(site: str) -> str:
    """How a result names a site."""
    return site.replace("/", ".")


def _together(model: Any) -> Any:
    """Has sites that ask to be enumerated one value after the other enumerated at once, which stock Pyro asks of models."""
    return poutine.infer_config(
        model, lambda site: {"enumerate": "parallel"} if site["infer"].get("enumerate") == "sequential" else {}
    )
