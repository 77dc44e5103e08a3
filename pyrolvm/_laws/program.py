"""One run of a model at given values of all its latents, site by site: what the recognition of exact posteriors reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.errors import CaptureError
from pyrolvm._capture import Captured, capture
from pyrolvm._laws.degrees import Degree, branch, degrees
from pyrolvm._program.density import Joint
from pyrolvm._program.peeling import innermost
from pyrolvm._program.problem import Problem
from pyrolvm._program.starting import Start, centre

__all__ = ["Program"]

Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Program:
    """A problem's program; its methods must be called inside a session."""

    problem: Problem

    # --- runs ---------------------------------------------------------------------------------------------------------

    @cached_property
    def joint(self) -> Joint:
        """The problem's density."""
        return Joint(self.problem)

    def trace(self, values: Values | None = None) -> Any:
        """A scored trace at values of all latents; by default continuous ones at the centre and discrete ones drawn."""

        def chosen(message: Any) -> Tensor:
            return centre(message) if values is None else values[message["name"]]

        with poutine.trace() as tracer, self.problem.whole.active():
            Start(chosen)(self.problem.model)(*self.problem.whole.args, **self.problem.whole.kwargs)
        tracer.trace.compute_log_prob()
        return tracer.trace

    def log_probs(self, values: Values) -> dict[str, Tensor]:
        """The log density of each site at values of all latents, with a shape of its own."""
        return self.joint.log_probs(values)

    def log_joint(self, values: Values) -> Tensor:
        """The log joint density at values of all latents, shape ``()``."""
        return torch.stack([part.sum() for part in self.log_probs(values).values()]).sum()

    def gradients(self, values: Values) -> tuple[Tensor, dict[str, Tensor]]:
        """The log joint density, and its gradients with respect to the continuous latents."""
        leaves = {name: value.detach().requires_grad_() for name, value in values.items() if name in self.continuous}
        with torch.enable_grad():
            total = self.log_joint({**values, **leaves})
            if not total.requires_grad:
                return total, {name: torch.zeros_like(value) for name, value in leaves.items()}
            found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        pairs = zip(leaves.items(), found, strict=True)
        return total.detach(), {n: torch.zeros_like(v) if g is None else g for (n, v), g in pairs}

    # --- what it is made of -------------------------------------------------------------------------------------------

    @cached_property
    def continuous(self) -> tuple[str, ...]:
        """The names of the continuous latents."""
        return tuple(site.name for site in self.problem.continuous)

    @cached_property
    def centre(self) -> Any:
        """One trace, for what does not change from run to run."""
        with torch.no_grad():
            return self.trace()

    @cached_property
    def values(self) -> dict[str, Tensor]:
        """The latents' values in that trace."""
        return {site.name: self.centre.nodes[site.name]["value"] for site in self.problem.latents}

    @cached_property
    def supports(self) -> dict[str, Tensor]:
        """The values that each element of a discrete latent can take, shape ``(K, *event)``."""
        found = {}
        for site in self.problem.discrete:
            values = self.centre.nodes[site.name]["fn"].enumerate_support(expand=False)
            found[site.name] = values.reshape(len(values), *values.shape[values.dim() - site.event_dim :])
        return found

    @cached_property
    def plates(self) -> list[str]:
        """The vectorised plates that all latents are in, the largest first."""
        common = [set(site.plates) for site in self.problem.latents]
        known = [self.problem.plates[name] for name in set.intersection(*common) if name in self.problem.plates]
        ranked = sorted(
            (plate for plate in known if plate.dim is not None), key=lambda plate: (-plate.size, plate.name)
        )
        return [plate.name for plate in ranked]

    def rows(self, log_probs: Mapping[str, Tensor], plate: str | None) -> tuple[Tensor, Tensor]:
        """The log joint density by rows of a plate, shape ``(rows,)``, and what lies outside it, shape ``()``.

        Without a plate there is one row, which is everything.
        """
        zero = next(iter(log_probs.values())).new_zeros(())
        if plate is None:
            return torch.stack([part.sum() for part in log_probs.values()]).sum()[None], zero
        inside, outside = [], [zero]
        for name, part in log_probs.items():
            if plate in self.problem.sites[name].plates:
                by_row = part.movedim(self.problem.plates[plate].dim, 0)  # type: ignore[arg-type]
                inside.append(by_row.reshape(len(by_row), -1).sum(1))
            else:
                outside.append(part.sum())
        return torch.stack(inside).sum(0), torch.stack(outside).sum()

    def configurations(self, plate: str | None) -> int:
        """How many joint values the discrete latents have, in each row of a plate."""
        rows = self.problem.plates[plate].size if plate else 1
        return math.prod(
            len(self.supports[site.name]) ** (math.prod(site.batch_shape) // rows) for site in self.problem.discrete
        )

    def configuration(self, plate: str | None) -> Sequence[dict[str, Tensor]]:
        """Every joint value of the discrete latents, the same one in all rows, as indices into supports by element.

        The indices of a site have the shape of one row of its elements.
        """
        sites = [
            (site.name, self.batch_shape(site.name, plate), len(self.supports[site.name]))
            for site in self.problem.discrete
        ]
        choices = [itertools.product(range(size), repeat=math.prod(shape)) for _, shape, size in sites]
        return [
            {name: torch.tensor(part).reshape(shape) for (name, shape, _), part in zip(sites, parts, strict=True)}
            for parts in itertools.product(*choices)
        ]

    def batch_shape(self, name: str, plate: str | None) -> tuple[int, ...]:
        """A site's batch shape, without the dimension of a plate."""
        site = self.problem.sites[name]
        shape = list(site.batch_shape)
        if plate is not None:
            del shape[self.problem.plates[plate].dim]  # type: ignore[arg-type]
        return tuple(shape)

    def discrete_values(self, indices: Mapping[str, Tensor], plate: str | None) -> dict[str, Tensor]:
        """Values of the discrete latents from indices into their supports, with a row's shape or with all rows' first."""
        found = {}
        for name, index in indices.items():
            value = self.supports[name][index.to(self.supports[name].device)]
            if plate is not None:
                site, where = self.problem.sites[name], self.problem.plates[plate]
                if index.dim() == len(self.batch_shape(name, plate)):
                    value = value.expand(where.size, *value.shape)
                value = value.movedim(0, where.dim - site.event_dim)  # type: ignore[operator]
            found[name] = value.contiguous()
        return found

    # --- its graph ----------------------------------------------------------------------------------------------------

    def degrees(self, variables: Collection[str]) -> dict[str, Degree]:
        """The degree of each site's log density in some of the continuous latents, whatever values the others take.

        Discrete latents are enumerated, so that the graph holds all of their values.

        Raises:
            CaptureError: if the program cannot be recorded.
        """
        sites, captured = self._recorded
        found = degrees(captured, [name in variables for name in self.continuous])
        return dict(zip(sites, found, strict=True))

    def branch(self) -> str:
        """The operation by which a continuous latent makes the density one of pieces; empty where none does.

        Raises:
            CaptureError: if the program cannot be recorded.
        """
        sites, captured = self._recorded
        # A uniform latent's density looks whether its value is inside.
        uniform = [n for n in self.continuous if isinstance(innermost(self.centre.nodes[n]["fn"]), dist.Uniform)]
        return branch(captured, [name not in uniform for name in sites])

    @cached_property
    def _recorded(self) -> tuple[list[str], Captured]:
        sites: list[str] = []

        def run(*values: Tensor) -> list[Tensor]:
            found = self.log_probs(dict(zip(self.continuous, values, strict=True)))
            sites[:] = list(found)
            return list(found.values())

        values = [self.values[name].clone() for name in self.continuous]
        with torch.no_grad():
            captured = capture(run, *values, what=f"model {self.problem.name!r}")
        if captured.random:
            raise CaptureError(f"model {self.problem.name!r} draws random numbers of its own.")
        return sites, captured
