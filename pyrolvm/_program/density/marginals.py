"""Probabilities of the values of discrete latents, all others summed out."""

from __future__ import annotations

import torch
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from pyrolvm._compat.pyro import packed_dims, symbol, with_packed_dims
from pyrolvm._program.density.joint import Joint
from pyrolvm._program.sites import is_deterministic, is_random

__all__ = ["marginals"]


def marginals(joint: Joint) -> dict[str, Tensor]:
    """The posterior probabilities of each discrete latent's values, shape ``(*batch, K)``, in a problem without continuous ones.

    The derivative of the log of the sum with respect to one factor of it is the probability of what that factor is of.
    """
    trace = joint.enumerated()
    names = joint.summed(trace)
    trace.compute_log_prob()
    trace.pack_tensors()
    leaves = {}
    for name in names:
        node = trace.nodes[name]["packed"]
        dims = packed_dims(node["unscaled_log_prob"])
        leaves[name] = with_packed_dims(node["unscaled_log_prob"].detach().requires_grad_(), dims)
        node["unscaled_log_prob"] = leaves[name]
    hidden = [name for name, node in trace.nodes.items() if is_random(node) and not is_deterministic(node)]
    with torch.enable_grad():
        total = contract_to_tensor(joint.factors(trace, hidden), joint.sum_dims(trace))
        found = torch.autograd.grad(total, list(leaves.values()))
    out = {}
    for (name, leaf), gradient in zip(leaves.items(), found, strict=True):
        node, site = trace.nodes[name], joint.problem.sites[name]
        own, dims = symbol(node), packed_dims(leaf)
        plates = {
            frame.dim: trace.plate_to_symbol[frame.name] for frame in node["cond_indep_stack"] if frame.vectorized
        }
        # Packing has dropped dimensions of length one.
        kept = [plate for _, plate in sorted(plates.items()) if plate in dims]
        kept += [own] if own in dims else []
        others = [i for i, one in enumerate(dims) if one not in kept]
        part = gradient.sum(others) if others else gradient
        order = [one for one in dims if one in kept]
        part = part.permute([order.index(one) for one in kept])
        out[name] = part.reshape(*site.batch_shape, -1)
    return out
