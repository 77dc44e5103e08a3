"""What stands around a model while its density is taken: values that are given, drawn, or images of unconstrained ones."""

from __future__ import annotations

from collections.abc import Mapping

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.bijections import bijection
from pyrolvm._compat.pyro import is_subsample
from pyrolvm._program.density.centring import Centring, Spread, conditional
from pyrolvm._program.sites import is_observation
from pyrolvm._program.starting import is_discrete, support_of
from pyrolvm._program.traces import Message

__all__ = ["AsIndex", "Counted", "Done", "Draw", "FromReal", "Given", "Somewhere", "Unobserve", "one_hot"]

Draw = Mapping[str, Tensor]


class Done(BaseException):
    """Ends a run of the model once everything that is asked for is known; not an error that the model could handle."""


class Given(Messenger):
    """Sets latent sites to given values.

    With ``stops``, a run ends at the last of these sites, without what follows from them alone, such as the likelihood.
    """

    stops = False

    def __init__(self, values: Draw) -> None:
        super().__init__()
        self.values = values
        self._seen: set[str] = set()

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"] = self.values[msg["name"]]
            if is_discrete(msg["fn"]):
                # Not to be enumerated any more, but noted by enumeration, which later sites in pyro.markov ask about it.
                msg["infer"] = {**msg["infer"], "enumerate": "given"}

    def _pyro_post_sample(self, msg: Message) -> None:
        # Handlers further out, such as the one that records, have had the site already.
        self._seen.add(msg["name"])
        if self.stops and self._seen >= self.values.keys():
            raise Done


class FromReal(Given):
    """Sets latent sites to the images of unconstrained values, and adds up the log Jacobians.

    The transform is taken from the support that the site has in this very run, so that a support which depends on
    another latent is mapped correctly.
    """

    def __init__(self, values: Draw, centring: Centring) -> None:
        super().__init__(values)
        self.centring = centring
        self.log_jacobian: Tensor | float = 0.0
        self.spreads: dict[str, Spread] = {}
        self.reals: dict[str, Tensor] = {}
        self.slopes: dict[str, Tensor] = {}
        self.jacobians: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            real = self.values[msg["name"]]
            spread = conditional(msg["fn"], real.shape)
            if spread is not None and spread.depends:
                self.spreads[msg["name"]] = spread
            if spread is not None and msg["name"] in self.centring:
                real, log_slope = spread.outward(real, self.centring[msg["name"]])
                self.log_jacobian = self.log_jacobian + log_slope.sum()
                self.slopes[msg["name"]] = log_slope
            self.reals[msg["name"]] = real
            transform = bijection(support_of(msg["fn"]))
            msg["value"] = transform(real)
            self.jacobians[msg["name"]] = transform.log_abs_det_jacobian(real, msg["value"])
            self.log_jacobian = self.log_jacobian + self.jacobians[msg["name"]].sum()


class Somewhere(FromReal):
    """As :class:`FromReal`, at values that float32 holds; or at the prior's own draws."""

    def __init__(self, values: Draw, from_prior: Tensor | None) -> None:
        super().__init__(values, {})
        self.from_prior = from_prior

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            drawn = None if self.from_prior is None else msg["fn"].sample()
            super()._pyro_sample(msg)
            value = msg["value"].float().to(msg["value"])
            msg["value"] = (
                value if drawn is None or self.from_prior is None else torch.where(self.from_prior, drawn, value)
            )


class Counted(Messenger):
    """Counts the densities of a plate's rows with a weight for each, and those of all other sites with another."""

    def __init__(self, plate: str, rows: Tensor, rest: Tensor) -> None:
        super().__init__()
        self.plate, self.rows, self.rest = plate, rows, rest

    def _pyro_sample(self, msg: Message) -> None:
        if is_subsample(msg["fn"]):
            return
        frame = next((frame for frame in msg["cond_indep_stack"] if frame.name == self.plate), None)
        weight = self.rest if frame is None else self.rows.reshape(-1, *[1] * (-(frame.dim or -1) - 1))
        msg["scale"] = msg["scale"] * weight


class AsIndex(Messenger):
    """Draws one-hot vectors by their index, which is all that Pyro's sampling of discrete posteriors can follow."""

    def _pyro_sample(self, msg: Message) -> None:
        if isinstance(msg["fn"], torch.distributions.OneHotCategorical) and not msg["is_observed"]:
            msg["fn"] = dist.Categorical(logits=msg["fn"].logits)
            msg["infer"] = {**msg["infer"], "one_hot": True}

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["infer"].get("one_hot"):
            msg["value"] = one_hot(msg["value"], msg["fn"].logits)


def one_hot(index: Tensor, logits: Tensor) -> Tensor:
    return (index.unsqueeze(-1) == torch.arange(logits.shape[-1], device=index.device)).to(logits.dtype)


class Unobserve(Messenger):
    """Makes observed sites random again; deterministic values and factors stay as they are."""

    def _pyro_sample(self, msg: Message) -> None:
        if is_observation(msg):
            msg["is_observed"] = False
            msg["value"] = None
