"""The importance-weighted bound, for each row of a plate, and its gradient estimators."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrolvm._base.errors import GuideError, positive_int, unknown_name
from pyrolvm._methods.fit.objectives.base import Given, Held, PureELBO, lanes, surrogate, traces
from pyrolvm._methods.fit.objectives.structure import Structure, read_structure, row_densities, row_scores, sites
from pyrolvm._program.batching import Batch
from pyrolvm._program.traces import Trace

__all__ = ["ImportanceWeighted_ELBO"]

GRADIENTS = ("auto", "plain", "dreg", "stl", "wake", "sleep", "score")
BASELINES = ("leave_one_out", "running", "none")
BOUNDS = ("auto", "rows", "joint")
DECAY = 0.9
"""What a running mean keeps of itself in a step."""


class ImportanceWeighted_ELBO(PureELBO):
    r"""The importance-weighted bound of K draws, a lower bound of the evidence that rises with K.

    For latents :math:`z_n` in the rows n of a plate and :math:`\theta` outside of it,

    .. math:: L_K = \mathbb{E}_{q(\theta)} \Bigl[ \log \frac{p(\theta)}{q(\theta)} + \sum_n \mathbb{E} \log \frac1K \sum_{k=1}^K
        \frac{p(x_n, z_{nk} \mid \theta)}{q(z_{nk} \mid \theta)} \Bigr] \le \log p(x), \qquad z_{nk} \sim q(z_n \mid \theta):

    K draws of each row's latents given one draw of what all rows share. The logarithm is taken for each row, not for the batch, so
    that the bound of N rows is N bounds; rows left out by a minibatch are made up for by its scale, without bias. The gap that is
    left is that of the rows, which vanishes with K, and KL(q(theta) || p(theta | x)), which does not. Without such a plate, or
    where the guide draws all latents together, the weights are those of everything at once (``bound="joint"``): that gap
    vanishes with K too, but needs K to grow as the exponential of the number of rows, and no minibatch gives it without bias, so
    that one is refused.

    Draws that cannot be reparameterised, of discrete sites say, have score-function terms, so that the gradient has no bias.

    Args:
        num_particles: K, draws of each row.
        gradient: ``"plain"``: the derivative of the estimate, whose signal for the guide falls as 1 / sqrt(K). ``"dreg"``: doubly
            reparameterised, without bias, whose signal does not fall; it costs one more run of the model, and every guide site must
            be reparameterised. ``"stl"``: ``"plain"`` without the guide's score, which is ``"dreg"`` for K = 1 and biased for
            more. ``"wake"``: reweighted wake-sleep, which follows the bound for the model and, for the guide, the divergence from the
            posterior to it; it differentiates no draw, so that discrete sites add no noise of their own. It is biased, less so with
            every draw. ``"sleep"``: the model as with ``"wake"``, and the guide learns from dreams, rows and latents drawn from the
            model, on which it follows E log q(z | x): with one draw the wake-sleep algorithm. Neither phase differentiates a draw,
            and the guide's has no weights, so that its noise is the least; but it learns to explain the model's rows in place of the
            data's, and no one loss falls. The model has to observe arguments as they are, and read them for nothing else.
            ``"score"``: score-function terms for all draws, reparameterised or not. ``"auto"``: ``"dreg"`` where the guide's sites
            are reparameterised and score other values cheaply, else ``"plain"``.
        bound: ``"rows"``, ``"joint"``, or ``"auto"``: ``"rows"`` where a plate allows it.
        baseline: what lowers the noise of score-function terms: ``"leave_one_out"``, the bound of the other draws (VIMCO; for
            K = 1, the mean of the other rows); ``"running"``, a running mean over steps, which only Pyro's engine keeps; or
            ``"none"``.
        max_plate_nesting: as for Pyro's.
        vectorize: whether to make the draws at once by ``vmap``.

    Raises:
        ArgumentError: if an argument is out of range.

    References:
        Burda, Grosse, Salakhutdinov, Importance Weighted Autoencoders, https://arxiv.org/abs/1509.00519
        Tucker, Lawson, Gu, Maddison, Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, https://arxiv.org/abs/1810.04152
        Roeder, Wu, Duvenaud, Sticking the Landing, https://arxiv.org/abs/1703.09194
        Mnih and Rezende, Variational Inference for Monte Carlo Objectives, https://arxiv.org/abs/1602.06725
        Bornschein and Bengio, Reweighted Wake-Sleep, https://arxiv.org/abs/1406.2751
        Hinton, Dayan, Frey, Neal, The Wake-Sleep Algorithm for Unsupervised Neural Networks, https://doi.org/10.1126/science.7761831
        Rainforth et al., Tighter Variational Bounds are Not Necessarily Better, https://arxiv.org/abs/1802.04537
    """

    def __init__(
        self,
        num_particles: int = 8,
        *,
        gradient: str = "auto",
        bound: str = "auto",
        baseline: str = "leave_one_out",
        max_plate_nesting: int = 0,
        vectorize: bool = True,
    ) -> None:
        count = positive_int("num_particles", num_particles)
        super().__init__(num_particles=count, max_plate_nesting=max_plate_nesting, vectorize=vectorize)
        for name, value, known in (
            ("gradient", gradient, GRADIENTS), ("bound", bound, BOUNDS), ("baseline", baseline, BASELINES),
        ):  # fmt: skip
            if value not in known:
                raise unknown_name(name, str(value), known)
        self.gradient, self.bound, self.baseline = gradient, bound, baseline
        self._running: Tensor | None = None
        self._read: tuple[Any, Any, Structure] | None = None
        if baseline == "running":
            self.uncapturable = 'baseline="running" keeps a mean from step to step.'

    def structure(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Structure:
        """What a row is; read from one run, and remembered for as long as model and guide are the same objects."""
        known = self._read
        if known is None or known[0] is not model or known[1] is not guide:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                known = (model, guide, read_structure(model, guide, args, kwargs, self.bound))
            self._read = known
        return known[2]

    def about(self, model: Callable[..., object], guide: Callable[..., object], batch: Batch) -> str:
        """The bound and the gradient that are used."""
        with batch.active():
            structure = self.structure(model, guide, *batch.args, **batch.kwargs)
        what = "all latents together" if structure.plate is None else f"each row of plate {structure.plate!r}"
        return f"{type(self).__name__}: {self.num_particles} draws of {what}, gradient {self.estimator(structure)!r}"

    def estimator(self, structure: Structure) -> str:
        """The gradient that is used.

        Raises:
            GuideError: if the guide has a site that it does not take.
        """
        if structure.scored and self.gradient in ("dreg", "stl"):
            raise GuideError(
                f'gradient="{self.gradient}" differentiates draws, and guide site {structure.scored!r} cannot be reparameterised. '
                'Fix: use gradient="auto" (score function with leave-one-out baselines) or gradient="wake".'
            )
        if self.gradient != "auto":
            return self.gradient
        return "dreg" if structure.cheap and not structure.scored else "plain"

    def particles(
        self, model: Callable[..., object], guide: Callable[..., object], *args: Any, **kwargs: Any
    ) -> Tensor:
        """One estimate of the bound. Shape ``(1,)``."""
        structure = self.structure(model, guide, *args, **kwargs)
        gradient = self.estimator(structure)
        if gradient == "dreg" and self.num_particles == 1:
            gradient = "stl"  # the same, in one run
        run = _Run(model, guide, args, kwargs, structure, self.num_particles, self.vectorize)
        held = gradient in ("dreg", "stl")
        shared = run.shared(held)
        if gradient in ("dreg", "wake", "sleep"):
            rows, score = run.weighed_twice(shared, gradient), torch.zeros(())
        else:
            log_w, score = run.weighed(shared, held, scored=gradient == "score")
            rows = log_w.logsumexp(0) - math.log(self.num_particles)
            if score.requires_grad:
                signal = self._signal(log_w.detach(), rows.detach())
                rows = surrogate(rows, (signal * score).sum(0))
        value = shared.value + run.scale * rows.sum()
        if shared.score.requires_grad:
            value = surrogate(value, value.detach() * shared.score)
        return value.reshape(1)

    def _signal(self, log_w: Tensor, rows: Tensor) -> Tensor:
        """What a draw's score is weighed by: the bound minus a baseline that the draw has no part in. Shape ``(K, rows)``."""
        if self.baseline == "running":
            mean = rows.new_zeros(()) if self._running is None else self._running
            self._running = rows.mean() if self._running is None else DECAY * mean + (1 - DECAY) * rows.mean()
            return (rows - mean).expand_as(log_w)
        count, width = log_w.shape
        if self.baseline == "none" or (count == 1 and width == 1):
            return rows.expand_as(log_w)
        if count == 1:
            return (rows - (rows.sum() - rows) / (width - 1)).expand_as(log_w)
        # A draw's weight is replaced by the geometric mean of the others'.
        others = (log_w.sum(0) - log_w) / (count - 1)
        own = torch.eye(count, dtype=torch.bool, device=log_w.device)[..., None]
        without = torch.where(own, others[:, None], log_w[None]).logsumexp(1) - math.log(count)
        return rows - without


@dataclass(frozen=True)
class _Shared:
    """What is drawn once: values by site, log p - log q of what is outside the rows, and its score-function term."""

    values: Mapping[str, Tensor]
    value: Tensor
    score: Tensor

    @property
    def fixed(self) -> dict[str, Tensor]:
        """The values as constants."""
        return {name: value.detach() for name, value in self.values.items()}


class _Run:
    """The runs of guide and model that one estimate takes."""

    def __init__(
        self,
        model: Callable[..., object],
        guide: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        structure: Structure,
        count: int,
        vectorize: bool,
    ) -> None:
        self.model, self.guide, self.args, self.kwargs = model, guide, args, kwargs
        self.structure, self.count, self.vectorize = structure, count, vectorize
        self.scale = 1.0
        self._axes: dict[str, int] = {}

    def _trace(self, program: Any, values: Mapping[str, Any]) -> Any:
        return poutine.trace(Given(values)(program)).get_trace(*self.args, **self.kwargs)

    def _rows(self, trace: Trace) -> Tensor:
        rows, _, self.scale = row_densities(trace, self.structure, self.count > 1)
        return rows

    def shared(self, held: bool) -> _Shared:
        """Draws what all rows share."""
        structure = self.structure
        if not structure.shared and not structure.outside:
            return _Shared({}, torch.zeros(()), torch.zeros(()))
        model_trace, guide_trace = traces(self.model, self.guide, self.args, self.kwargs)
        values = {name: guide_trace.nodes[name]["value"] for name in structure.shared}
        if structure.plate is None:  # only the choice of a plate's rows
            return _Shared(values, torch.zeros(()), torch.zeros(()))
        _, score = row_scores(guide_trace, structure)
        if held:
            drawn = {name: node["value"] for name, node in sites(guide_trace)}
            with Held():
                guide_trace = self._trace(self.guide, {**values, **drawn})
        log_p, log_q = (row_densities(trace, structure, False)[1] for trace in (model_trace, guide_trace))
        return _Shared(values, log_p - log_q, score)

    def weighed(self, shared: _Shared, held: bool, scored: bool) -> tuple[Tensor, Tensor]:
        """Log weights and score-function terms, each of shape ``(K, rows)``.

        ``held``: without the guide's score; ``scored``: draws have no gradient, and the guide's log density is their score.
        """

        def one() -> tuple[Tensor, Tensor]:
            guide_trace = self._trace(self.guide, shared.values)
            drawn = {name: node["value"] for name, node in sites(guide_trace)}
            if scored:
                drawn = {name: value.detach() for name, value in drawn.items()}
                guide_trace = self._trace(self.guide, {**shared.values, **drawn})
            model_trace = self._trace(self.model, {**shared.values, **drawn})
            score = self._rows(guide_trace) if scored else row_scores(guide_trace, self.structure)[0]
            if held:
                with Held():
                    guide_trace = self._trace(self.guide, {**drawn, **shared.fixed})
            log_w = self._rows(model_trace) - self._rows(guide_trace)
            return log_w, score.expand_as(log_w)

        # Without the score, or with nothing else, the gradient is right if a draw has the guide's law whatever the others are.
        strata = None if held or scored else self.guide
        found: tuple[Tensor, Tensor] = lanes(one, self.count, self.vectorize, guide=strata)
        return found

    def weighed_twice(self, shared: _Shared, gradient: str) -> Tensor:
        """Each row's bound, whose gradient weighs the draws by their normalised weights, known from a run before. Shape ``(rows,)``.

        ``"dreg"``: the gradient of a draw is weighed once more, and the guide has no score; otherwise the draws have no
        gradient, and the guide's log density is weighed as the model's is, or by ``"sleep"`` is that of dreams.
        """
        doubly = gradient == "dreg"

        def draw() -> tuple[dict[str, Tensor], Tensor]:
            guide_trace = self._trace(self.guide, shared.values)
            drawn = {name: node["value"] for name, node in sites(guide_trace) if name not in shared.values}
            for name, node in sites(guide_trace):
                self._axes[name] = self.structure.dim - node["fn"].event_dim
            with torch.no_grad():
                model_trace = self._trace(self.model, {**shared.values, **drawn})
                log_w = self._rows(model_trace) - self._rows(guide_trace)
            return drawn, log_w

        drawn, log_w = lanes(draw, self.count, self.vectorize)
        log_w = log_w.detach()
        weight = log_w.softmax(0)

        def again(values: Mapping[str, Tensor], share: Tensor) -> Tensor:
            part = {
                name: self._weighed(name, value, share) if doubly else value.detach() for name, value in values.items()
            }
            model_rows = self._rows(self._trace(self.model, {**shared.values, **part}))
            if gradient == "sleep":
                return model_rows
            if not doubly:
                return model_rows + self._rows(self._trace(self.guide, {**shared.fixed, **part}))
            with Held():
                return model_rows - self._rows(self._trace(self.guide, {**shared.fixed, **part}))

        terms = lanes(again, self.count, self.vectorize, drawn, weight)
        bound = log_w.logsumexp(0) - math.log(self.count)
        found = surrogate(bound, (weight * terms).sum(0))
        return surrogate(found, self.dreamt(shared)) if gradient == "sleep" else found

    def dreamt(self, shared: _Shared) -> Tensor:
        """The guide's log density of latents that the model drew, given the rows that it drew of them. Shape ``(rows,)``.

        Raises:
            GuideError: if what the model observes is no argument as it is.
        """
        with torch.no_grad():
            free = poutine.uncondition(Given(shared.fixed)(self.model))
            drawn = poutine.trace(free).get_trace(*self.args, **self.kwargs)
        dreams = {
            id(node["infer"]["obs"]): (name, node["value"]) for name, node in sites(drawn) if "obs" in node["infer"]
        }
        given = {id(value) for value in (*self.args, *self.kwargs.values())}
        for key, (name, _) in dreams.items():
            if key not in given:
                raise GuideError(
                    f'gradient="sleep" shows the guide rows that the model draws, and site {name!r} observes no argument of the model '
                    'as it is. Fix: pass what is observed as an argument, or use gradient="wake".'
                )
        dream = {key: value for key, (_, value) in dreams.items()}
        args = tuple(dream.get(id(value), value) for value in self.args)
        kwargs = {name: dream.get(id(value), value) for name, value in self.kwargs.items()}
        latents = {name: node["value"] for name, node in sites(drawn) if "obs" not in node["infer"]}
        return self._rows(poutine.trace(Given(latents)(self.guide)).get_trace(*args, **kwargs))

    def _weighed(self, name: str, value: Tensor, share: Tensor) -> Tensor:
        """A draw whose gradient is multiplied by its row's share."""
        if not value.is_floating_point():
            return value
        if self.structure.plate is not None and value.dim() >= -self._axes[name]:
            shape = [1] * value.dim()
            shape[self._axes[name]] = -1
            share = share.reshape(shape)
        fixed = value.detach()
        return fixed + share * (value - fixed)
