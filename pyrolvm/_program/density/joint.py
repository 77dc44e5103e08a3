"""The joint density of one problem as functions of one draw.

All functions take and return dictionaries of tensors for a single draw, run the model once, and must be called inside
a :func:`pyrolvm._base.runtime.session`. They are pure, so that :func:`~pyrolvm._program.density.vectorize.map_draws` can batch them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import config_enumerate, infer_discrete
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree, contract_to_tensor
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._base.errors import ProblemError
from pyrolvm._compat.pyro import is_enumerated, packed_dims
from pyrolvm._program.batching import Batch
from pyrolvm._program.density.centring import Centring, conditional, non_centred
from pyrolvm._program.density.handlers import (
    AsIndex,
    Counted,
    Done,
    Draw,
    FromReal,
    Given,
    Somewhere,
    Unobserve,
    one_hot,
)
from pyrolvm._program.peeling import innermost, own_masks
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import has_terms
from pyrolvm._program.sites import is_deterministic, is_random
from pyrolvm._program.starting import Start, centre, support_of
from pyrolvm._program.traces import Trace

__all__ = ["Joint", "decentred"]

_Factors = OrderedDict[frozenset[str], list[Tensor]]


def _value(tracer: Any, site: str) -> Tensor:
    return tracer.trace.nodes[site]["value"]


def decentred(
    model: Callable[..., Any], args: Any, kwargs: Any, values: Draw, centring: Centring
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Unconstrained values, by site, that coordinates stand for, and the logarithms of their slopes where they have any.

    It runs the model up to the last of these sites, out of sight of the handlers around it, since a site's coordinates depend on its
    parents.
    """
    handler = FromReal(values, centring)
    handler.stops = True
    with suppress(Done), poutine.block(), handler:
        model(*args, **kwargs)
    return handler.reals, handler.slopes


def _factor(node: Any, scaled: bool) -> Tensor:
    """The log density of a site in packed form; what is summed out is not masked, so that it sums to one where data are not seen."""
    values = node["packed"]
    summed = is_enumerated(node)
    if scaled and (values["mask"] is None or not summed):
        term: Tensor = values["log_prob"]
        return term
    scale = node["scale"] if scaled else 1.0
    found: Tensor = packed.scale_and_mask(values["unscaled_log_prob"], scale, None if summed else values["mask"])
    return found


def _apart(node: Any) -> Any:
    """The log density of a site, value by value where an event is one of independent values and nothing scales or masks it."""
    fn = node["fn"]
    if node["mask"] is not None or own_masks(fn) or isinstance(node["scale"], Tensor) or node["scale"] != 1.0:
        return node["log_prob"]
    inside = innermost(fn)
    return node["log_prob"] if inside is fn else inside.log_prob(node["value"])


class Joint:
    """The joint density of ``problem`` on ``batch`` (all rows by default), as functions of one draw.

    Its flat vectors are unconstrained values, site after site, or with ``centring`` the coordinates of
    :mod:`pyrolvm._program.density.centring` for the sites that it names.

    Discrete latents that a draw does not give are summed out. One with infinitely many values cannot be: the functions
    raise a ``ProblemError`` unless the draw gives it.
    """

    def __init__(self, problem: Problem, batch: Batch | None = None, *, centring: Centring | None = None) -> None:
        self.problem = problem
        self._asked = dict(centring or {})
        self.batch = batch or problem.whole
        self._nesting = max((-plate.dim for plate in problem.plates.values() if plate.dim is not None), default=0)
        self.sizes = [site.unconstrained_numel for site in problem.continuous]

    @cached_property
    def centring(self) -> Centring:
        """How centred sites are; without those whose parents are enumerated, which have no coordinates of their own."""
        if not self._asked or not self.problem.discrete:
            return self._asked
        known = self.dependent()
        return {name: value for name, value in self._asked.items() if name in known}

    def recentred(self, centring: Centring) -> Joint:
        """The same density in other coordinates."""
        return Joint(self.problem, self.batch, centring=centring)

    def non_centred(self) -> Joint:
        """The same density with every dependent site in units of its parents, whatever the data say of it."""
        lengths = self.vectors()
        like = torch.zeros(self.problem.unconstrained_size, dtype=self.problem.dtype, device=self.problem.device)
        parts = {name: part for name, part in self.split(like).items() if name in lengths}
        return self.recentred({name: non_centred(part, lengths[name]) for name, part in parts.items()})

    # --- densities ----------------------------------------------------------------------------------------------------

    def log_p(self, draw: Draw) -> Tensor:
        """Log p(data, draw) on the constrained scale, discrete latents summed out. Shape ``()``."""
        return self._log_prob_sum(self._trace(Given(draw)))

    def somewhere(self, flat: Tensor, from_prior: Tensor | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """The draw that an unconstrained vector stands for, in float32, and its :meth:`log_p`; or a draw of the prior and its own.

        Args:
            flat: the vector.
            from_prior: whether to draw from the prior, shape ``()``.
        """
        trace = self._trace(Somewhere(self.split(flat), from_prior))
        return {site.name: trace.nodes[site.name]["value"] for site in self.problem.continuous}, self._log_prob_sum(
            trace
        )

    def potential(self, flat: Tensor) -> Tensor:
        """Minus the log density of the unconstrained vector ``flat``, shape ``(unconstrained_size,)``, log Jacobian included."""
        handler = FromReal(self.split(flat), self.centring)
        log_p = self._log_prob_sum(self._trace(handler))
        return -(log_p + handler.log_jacobian)

    def counted(self, flat: Tensor, plate: str, rows: Tensor, rest: Tensor) -> Tensor:
        """The potential with the densities of a plate's rows counted as often as ``rows`` says, all else as often as ``rest``.

        Args:
            flat: the unconstrained vector.
            plate: the plate.
            rows: a weight for each of its rows on this batch.
            rest: shape ``()``.
        """
        handler = FromReal(self.split(flat), self.centring)
        with Counted(plate, rows, rest):
            log_p = self._log_prob_sum(self._trace(handler))
        return -(log_p + rest * handler.log_jacobian)

    def rest(self, flat: Tensor, name: str) -> Tensor:
        """The potential without what site ``name`` itself adds to it: minus what all other sites say of its value, shape ``()``."""
        handler = FromReal(self.split(flat), self.centring)
        trace = self._trace(handler)
        total = self._log_prob_sum(trace)
        return -(total - trace.nodes[name]["log_prob_sum"] + handler.log_jacobian - handler.jacobians[name].sum())

    def elements(self, flat: Tensor) -> dict[str, Tensor]:
        """The log density of an unconstrained vector in the smallest parts that the program has, by name.

        Their sum is minus the potential.

        Each site adds its densities and each latent its log Jacobians, with the dimensions of the plates and, where events are made of
        independent values alone, of these values.

        Raises:
            ProblemError: if discrete latents have to be summed out, which joins what is apart.
        """
        if self.problem.discrete:
            names = ", ".join(repr(site.name) for site in self.problem.discrete)
            raise ProblemError(
                f"the density of {self.problem.name} sums over {names}, so that it has no parts. Fix: use lvm.infer(problem)."
            )
        handler = FromReal(self.split(flat), self.centring)
        trace = self._trace(handler)
        trace.compute_log_prob()
        parts = {f"jacobian/{name}": part for name, part in handler.jacobians.items()}
        for name, slope in handler.slopes.items():
            parts[f"slope/{name}"] = slope
        for name, node in trace.nodes.items():
            if is_random(node) and not is_deterministic(node):
                parts[f"density/{name}"] = torch.as_tensor(_apart(node))
        return parts

    def terms(self, draw: Draw) -> dict[str, Tensor]:
        """Everything that one run tells about a draw, under names ``group/site``.

        Groups: ``log_p`` (alone), ``log_prior`` and ``log_likelihood`` by site with the plates' dimensions, and
        ``deterministic``; a factor with a batch is a likelihood where nothing is observed. Under discrete latents, priors are
        of continuous sites, the likelihood of a row is the marginal one, and :meth:`deterministic` has deterministic sites.
        """
        trace = self._trace(Given(draw))
        out = {"log_p": self._log_prob_sum(trace)}
        if self.summed(trace):
            return out | self._marginal_terms(trace)
        for name, node in trace.nodes.items():
            if not is_random(node):
                continue
            if is_deterministic(node):
                out[f"deterministic/{name}"] = node["value"]
            elif name in self.problem.sites and has_terms(self.problem, node["fn"]):
                group = "log_likelihood" if node["is_observed"] else "log_prior"
                # A row's own density: masked as the model says, but not scaled up for rows that are absent.
                out[f"{group}/{name}"] = scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"])
        return out

    def log_probs(self, draw: Draw) -> dict[str, Tensor]:
        """The log density of each site with a shape of its own, masked and scaled as the model says.

        Discrete latents that the draw does not give add dimensions of their values.
        """
        trace = self._trace(Given(draw))
        trace.compute_log_prob()
        return {
            name: torch.as_tensor(node["log_prob"])
            for name, node in trace.nodes.items()
            if is_random(node) and not is_deterministic(node)
        }

    def site_log_probs(self, draw: Draw) -> dict[str, float]:
        """The summed log density of each site at a draw, for messages; discrete latents take a prior draw."""
        with poutine.trace() as tracer, Given(draw):
            self._run()
        tracer.trace.compute_log_prob()
        return {
            name: float(node["log_prob_sum"])
            for name, node in tracer.trace.nodes.items()
            if is_random(node) and not is_deterministic(node)
        }

    # --- coordinates --------------------------------------------------------------------------------------------------

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """The parts of an unconstrained vector, by site."""
        parts = torch.split(flat, self.sizes)
        return {
            site.name: part.reshape(site.unconstrained_shape or ())
            for site, part in zip(self.problem.continuous, parts, strict=True)
        }

    def constrain(self, flat: Tensor) -> dict[str, Tensor]:
        """The draw that an unconstrained vector stands for; the model runs up to its last continuous latent."""
        return self.constrain_parts(self.split(flat))

    def constrain_parts(self, parts: Draw) -> dict[str, Tensor]:
        """The same of a vector's parts, by site."""
        trace = self._prior(FromReal(parts, self.centring))
        return {site.name: trace.nodes[site.name]["value"] for site in self.problem.continuous}

    def log_jacobian(self, flat: Tensor) -> Tensor:
        """The log Jacobian of :meth:`constrain` at a vector, shape ``()``; the model runs up to its last continuous latent."""
        handler = FromReal(self.split(flat), self.centring)
        self._prior(handler)
        return torch.as_tensor(handler.log_jacobian)

    def prior_nodes(self, flat: Tensor) -> Mapping[str, Any]:
        """The trace's nodes up to the last continuous latent, at an unconstrained vector."""
        nodes: Mapping[str, Any] = self._prior(FromReal(self.split(flat), self.centring)).nodes
        return nodes

    def spread(self, flat: Tensor, name: str) -> dict[str, Tensor]:
        """The unconstrained value of a dependent site at a point, ``real``, and the ``variance`` of its conditional prior there."""
        with torch.no_grad():
            handler = FromReal(self.split(flat), self.centring)
            fn = self._trace(handler).nodes[name]["fn"]
            real = handler.reals[name]
            spread = conditional(fn, real.shape)
            assert spread is not None  # as dependent() says
            squares = spread.scale**2
            return {"real": real, "variance": (squares.sum(-1) if spread.joint else squares).expand_as(real)}

    def unconstrain(self, draw: Draw) -> dict[str, Tensor]:
        """The coordinates of a draw, by site: its unconstrained values unless ``centring`` says otherwise."""
        trace = self._prior(Given({site.name: draw[site.name] for site in self.problem.continuous}))
        found = {}
        for site in self.problem.continuous:
            fn = trace.nodes[site.name]["fn"]
            value = bijection(support_of(fn)).inv(draw[site.name])
            spread = conditional(fn, value.shape) if site.name in self.centring else None
            found[site.name] = value if spread is None else spread.inward(value, self.centring[site.name])
        return found

    def dependent(self) -> list[str]:
        """The sites whose location or scale other latents set, in a form that ``centring`` can change."""
        return list(self.vectors())

    def vectors(self) -> dict[str, int]:
        """By dependent site, the length of the vectors whose elements have a scale together; 1 where each has its own."""
        if self.batch is not self.problem.whole:
            return self._vectors()
        kept: dict[str, dict[str, int]] = self.problem.kept
        if "vectors" not in kept:
            kept["vectors"] = self._vectors()
        return dict(kept["vectors"])

    def _vectors(self) -> dict[str, int]:
        flat = torch.zeros(sum(self.sizes), dtype=self.problem.dtype, device=self.problem.device)
        handler = FromReal(self.split(flat.requires_grad_()), {})
        with torch.enable_grad():
            self._trace(handler)  # with enumeration, so that sites with an enumerated parent show its dimension
        return {name: spread.scale.shape[-1] if spread.joint else 1 for name, spread in handler.spreads.items()}

    def flatten(self, unconstrained: Draw) -> Tensor:
        """One vector out of the parts."""
        parts = [unconstrained[site.name].reshape(-1) for site in self.problem.continuous]
        return torch.cat(parts) if parts else torch.zeros(0)

    # --- what follows from a draw -------------------------------------------------------------------------------------

    def deterministic(self, draw: Draw) -> dict[str, Tensor]:
        """The deterministic sites, given a draw of all latents and of what is predicted."""
        with poutine.trace() as tracer:
            self._run(Given(draw)(self.problem.program))
        nodes: dict[str, Any] = dict(tracer.trace.nodes.items())
        return {n: node["value"] for n, node in nodes.items() if node["type"] == "sample" and is_deterministic(node)}

    def predicted(self, draw: Draw) -> dict[str, Tensor]:
        """The predicted sites, given a draw of all latents."""
        with poutine.trace() as tracer:
            self._run(Given(draw)(self.problem.program))
        return {site.name: _value(tracer, site.name) for site in self.problem.predicted}

    def discrete(self, draw: Draw) -> dict[str, Tensor]:
        """A draw of the discrete latents from their exact posterior given the continuous ones."""
        # The given values go inside: infer_discrete hides its runs of the model from handlers around it.
        given = Given(draw)(config_enumerate(AsIndex()(self.problem.model), "parallel"))
        with poutine.trace() as tracer:
            self._run(infer_discrete(given, first_available_dim=-1 - self._nesting, temperature=1))
        # It drops dimensions of length one, such as a plate of one row.
        nodes: dict[str, Any] = {site.name: tracer.trace.nodes[site.name] for site in self.problem.discrete}
        drawn = {name: node["value"].reshape(node["fn"].shape()) for name, node in nodes.items()}
        hot = {name: node["fn"].logits for name, node in nodes.items() if node["infer"].get("one_hot")}
        return drawn | {name: one_hot(drawn[name], logits) for name, logits in hot.items()}

    def observations(self) -> dict[str, Tensor]:
        """The values at the observed sites."""
        with poutine.trace() as tracer, Start(centre):
            self._run()
        return {site.name: _value(tracer, site.name) for site in self.problem.observed}

    def predictive(self, draw: Draw) -> dict[str, Tensor]:
        """New observations given a draw of all latents; with an empty draw, of the prior, latents included."""
        with poutine.trace() as tracer, Unobserve(), Given(draw):
            self._run(None if draw else self.problem.program)
        names = [site.name for site in self.problem.observed]
        if not draw:
            names += [site.name for site in (*self.problem.latents, *self.problem.predicted)]
            names += [site.name for site in self.problem.sites.values() if site.kind == "deterministic"]
        return {name: _value(tracer, name) for name in names}

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _run(self, model: Callable[..., Any] | None = None) -> None:
        with self.batch.active():
            (model or self.problem.model)(*self.batch.args, **self.batch.kwargs)

    def enumerated(self) -> Any:
        """The trace of a run with all values of the discrete latents at once, in a problem without continuous ones."""
        return self._trace(Given({}))

    def _prior(self, handler: Given) -> Any:
        """The trace of a run that ends at the last of the handler's sites."""
        handler.stops = True
        return self._trace(handler, enumerate_discrete=False)

    def _trace(self, handler: Given, *, enumerate_discrete: bool = True) -> Any:
        # The handler goes innermost, so that a discrete site it sets is not enumerated as well.
        model = handler(self.problem.model)
        summed = [site for site in self.problem.discrete if site.name not in handler.values]
        if summed and enumerate_discrete:
            for site in summed:
                if not site.enumerable:
                    raise ProblemError(
                        f"latent site {site.name!r} is {site.distribution}, {site.why_not_listed}, and cannot be summed out. "
                        f"Fix: {site.instead}; or fit it by a guide of your own that draws it, lvm.fit(problem, guide)."
                    )
            model = poutine.enum(config_enumerate(model, "parallel"), first_available_dim=-1 - self._nesting)
        with poutine.trace() as tracer, suppress(Done):
            self._run(model)
        return tracer.trace

    def summed(self, trace: Trace) -> list[str]:
        """The discrete latents that this run enumerated."""
        return [site.name for site in self.problem.discrete if is_enumerated(trace.nodes[site.name])]

    def _log_prob_sum(self, trace: Trace) -> Tensor:
        trace.compute_log_prob()
        if not self.summed(trace):
            terms = [
                node["log_prob_sum"] for node in trace.nodes.values() if is_random(node) and not is_deterministic(node)
            ]
            return torch.stack([torch.as_tensor(term) for term in terms]).sum()
        trace.pack_tensors()
        sum_dims = self.sum_dims(trace)
        total = torch.zeros((), dtype=self.problem.dtype, device=self.problem.device)
        mixed = []
        for name, node in trace.nodes.items():
            if is_random(node) and not is_deterministic(node):
                if sum_dims.isdisjoint(packed_dims(node["packed"]["log_prob"])):
                    total = total + node["log_prob_sum"]
                else:
                    mixed.append(name)
        # log p(rows) is scaled where rows stand for others, not log p(row, z): a common scale belongs outside the sum over z.
        scales = [trace.nodes[name]["scale"] for name in mixed]
        common = all(not isinstance(scale, Tensor) for scale in scales) and len(set(scales)) == 1
        factors = self.factors(trace, mixed, scaled=not common)
        return total + (scales[0] if common else 1.0) * contract_to_tensor(factors, sum_dims)

    def sum_dims(self, trace: Any) -> set[str]:
        """The symbols of the enumerated dimensions."""
        return set(trace.symbol_to_dim) - set(trace.plate_to_symbol.values())

    def factors(self, trace: Any, names: Iterable[str], *, scaled: bool = False) -> _Factors:
        """The log densities of sites by plate context, in Pyro's packed form."""
        factors: _Factors = OrderedDict()
        for name in names:
            node = trace.nodes[name]
            context = frozenset(trace.plate_to_symbol[f.name] for f in node["cond_indep_stack"] if f.vectorized)
            factors.setdefault(context, []).append(_factor(node, scaled))
        return factors

    def _marginal_terms(self, trace: Trace) -> dict[str, Tensor]:
        """Pointwise terms where discrete latents are summed out: each row's marginal likelihood, if rows separate.

        Where a continuous latent depends on a discrete one, z, its prior is the marginal sum_z p(z) p(x | z), and the
        likelihood of a row is sum_z p(z) p(x | z) p(y | x, z) divided by that.
        """
        sum_dims = self.sum_dims(trace)
        mixed = [
            site.name
            for site in self.problem.continuous
            if not sum_dims.isdisjoint(packed_dims(trace.nodes[site.name]["packed"]["log_prob"]))
        ]
        out: dict[str, Tensor] = {}
        for site in self.problem.continuous:
            if site.name not in mixed:
                node = trace.nodes[site.name]
                out[f"log_prior/{site.name}"] = scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"])
        observed = [site.name for site in self.problem.observed]
        hidden = [*self.summed(trace), *mixed]
        prior = self._contracted(trace, hidden) if mixed else None
        if len(mixed) == 1 and prior is not None:
            out[f"log_prior/{mixed[0]}"] = prior[1]
        joint = self._contracted(trace, [*hidden, *observed])
        if len(observed) == 1 and joint is not None:
            if not mixed:
                out[f"log_likelihood/{observed[0]}"] = joint[1]
            elif prior is not None and prior[0] == joint[0]:
                out[f"log_likelihood/{observed[0]}"] = joint[1] - prior[1]
        return out

    def _contracted(self, trace: Any, names: list[str]) -> tuple[frozenset[str], Tensor] | None:
        """The sites' log density, discrete latents summed out, by row; ``None`` if it is not all of the same rows."""
        tree = contract_tensor_tree(self.factors(trace, names), self.sum_dims(trace))
        contexts = [context for context, terms in tree.items() if terms]
        if len(contexts) != 1:
            return None
        terms = tree[contexts[0]]
        order = sorted(contexts[0], key=lambda symbol: trace.symbol_to_dim[symbol])
        rows = [term.permute([packed_dims(term).index(symbol) for symbol in order]) for term in terms]
        return contexts[0], torch.stack(rows).sum(0)
