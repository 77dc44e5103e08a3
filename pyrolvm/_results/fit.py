"""What a guide was fitted to, with its draws and their weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pyrolvm._base.errors import ArgumentError, StoreError, positive_int
from pyrolvm._base.numerics import Array
from pyrolvm._results.base import Posterior
from pyrolvm._results.build import lanes, latent_dataset
from pyrolvm._results.callables import Trained, trained_guide, trained_model
from pyrolvm._results.draws import draw_guide, rebuild, stored
from pyrolvm._results.evidence import Evidence
from pyrolvm._results.likelihood import generated_dataset
from pyrolvm._results.modules import trained
from pyrolvm._results.points import read_points
from pyrolvm._results.weights import from_weights
from pyrolvm.family.guide import Guide

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Fit"]


@dataclass(eq=False, repr=False)
class Fit(Posterior):
    """A variational posterior.

    Attributes:
        guide: the recipe of the fitted guide; ``None`` for a result loaded without it.
    """

    guide: Guide | None = None

    @property
    def losses(self) -> Array:
        """The loss, minus the ELBO, at each step."""
        return np.asarray(self.data["optimization"]["loss"].values)

    @property
    def validation_losses(self) -> xr.DataArray | None:
        """The loss of held-out data at each look, dim ``validation_step``; ``None`` if there were none."""
        group = self.data["optimization"]
        return group.to_dataset()["validation_loss"] if "validation_loss" in group else None

    @property
    def converged(self) -> bool:
        """Whether the ELBO was measurably flat at the end."""
        return bool(self.data["optimization"].attrs["converged"])

    @property
    def stop_reason(self) -> str:
        """Why the optimisation ended."""
        return str(self.data["optimization"].attrs["stop_reason"])

    @property
    def maximum_likelihood(self) -> bool:
        """Whether the fit is of parameters alone, the model having no latents, or discrete ones that are summed out."""
        return str(self.data["posterior"].attrs.get("inference_method")) == "maximum_likelihood"

    def module(self, name: str | None = None) -> torch.nn.Module:
        """A trained module of the model or of the guide: a copy, in evaluation mode.

        Args:
            name: what the model calls it in ``pyro.module(name, ...)``, or the argument that it is; may be left out if there is one.

        Raises:
            UnknownNameError: if there is no module of that name.
            ArgumentError: if there is no module, or there are several and none is named.
            StoreError: if the result was loaded without its problem.
        """
        problem = self.attached
        with self._session(0):
            return trained(problem, self.guide, name)

    def guide_fn(self) -> Trained:
        """The trained guide as a Pyro callable, for ``pyro.infer.Predictive`` or any other use.

            >>> pyro.infer.Predictive(fit.model_fn(), guide=fit.guide_fn(), num_samples=100)(x_new, None)

        It takes the model's arguments, or none for those of the fit, and draws the latents. Its parameters and modules are copies at
        the values of the fit: Pyro's parameter store is neither read nor written. Of a corrected result it is the guide before the
        correction.

        Raises:
            StoreError: if the result was loaded without its problem or guide.
        """
        return trained_guide(self.attached, self._recipe, self.params)

    def model_fn(self) -> Trained:
        """The model at the parameters of the fit as a Pyro callable; as :meth:`guide_fn`.

        It is the program as it was written, observations included: condition or replay it as any Pyro model.

        Raises:
            StoreError: if the result was loaded without its problem.
        """
        return trained_model(self.attached, self.params)

    @property
    def _again(self) -> Guide:
        return self._recipe

    @property
    def _recipe(self) -> Guide:
        if self.guide is None:
            raise StoreError(
                f"{self.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
            )
        return self.guide

    @property
    def point_estimate(self) -> bool:
        """Whether the guide has no density for some of the unknowns, so that there are no weights, ELBO or evidence."""
        return bool(read_points(self.data))

    def check_density(self, what: str) -> None:
        """Refuses a point estimate where weights are needed.

        Raises:
            ArgumentError: if this is one; ``what`` names what needs them.
        """
        if self.point_estimate:
            raise ArgumentError(
                f"{self.name} is a point estimate: its draws have no density, so {what} has no weights to work with. "
                'Fix: fit a guide with a density, such as "laplace" or "full_rank", or use lvm.nuts.'
            )

    @property
    def corrected(self) -> bool:
        """Whether the draws were chosen by importance weights; the guide's own are then in ``uncorrected_posterior``."""
        return "proposal_stats" in self.data.children

    @property
    def _weighed(self) -> Any:
        return self.data["proposal_stats" if self.corrected else "sample_stats"]

    @property
    def log_weight(self) -> Array:
        """The log importance weight log p - log q of each draw of the guide. Shape ``(draw,)``."""
        return np.asarray(self._weighed["log_weight"].values).reshape(-1)

    @property
    def elbo(self) -> float:
        """The evidence lower bound, from the posterior draws, in nats; of a model without latents log p(data).

        NaN of a point estimate, whose density is infinite: :attr:`log_p` is the log joint density there.
        """
        if self.maximum_likelihood:
            return float(self.log_p.mean())
        return float("nan") if self.point_estimate else float(np.mean(self.log_weight))

    @property
    def elbo_error(self) -> float:
        """The standard error of :attr:`elbo`."""
        if self.maximum_likelihood:
            return 0.0
        if self.point_estimate:
            return float("nan")
        return float(np.std(self.log_weight, ddof=1) / np.sqrt(len(self.log_weight)))

    @property
    def khat(self) -> float:
        """The Pareto k of the importance weights; see :func:`pyrolvm.diagnose`.

        NaN of a point estimate and of a model without latents, which have none.
        """
        if self.maximum_likelihood or self.point_estimate:
            return float("nan")
        return float(self._weighed["khat"])

    @cached_property
    def evidence(self) -> Evidence | None:
        """By importance sampling from the guide, with Pareto smoothed weights of the draws that it has.

        ``None`` for a model without latents: its log p(data), :attr:`log_p`, is at parameters that were fitted to the data. ``None``
        for a point estimate, which has no weights.
        """
        if self.maximum_likelihood or self.point_estimate:
            return None
        return from_weights(self.log_weight, "importance sampling")

    def sample(self, n: int, *, seed: int = 0) -> xr.Dataset:
        """Fresh draws from the guide; of a corrected result, stored draws chosen at random.

        Of a model without latents, new observations: rows of the data, or whole data sets where these have no rows. Of one whose
        latents are all summed out, draws of these from their posterior given the data and the parameters.

        Raises:
            StoreError: if the result was loaded without its problem or guide.
        """
        positive_int("n", n)
        if self.corrected:
            return stored(self.data, n, seed)
        problem = self.attached
        if self.maximum_likelihood and problem.latents:
            with self._session(seed):
                return latent_dataset(problem, lanes(problem, n))
        if self.maximum_likelihood:
            with self._session(seed):
                return generated_dataset(problem, n)
        recipe = self._recipe
        with self._session(seed):
            values, _ = draw_guide(problem, rebuild(problem, recipe), n)
            return latent_dataset(problem, values or lanes(problem, n))
