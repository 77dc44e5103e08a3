"""Guides that hold all latent sites in one unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor

from pyrolvm import Problem, PyrolvmError
from pyrolvm.family import Joint, centred, decentred, starting_frame
from pyrolvm_guides._checks import refuse_other_sizes, refuse_subsampling
from pyrolvm_guides._frame import Framed
from pyrolvm_guides._layout import Layout, inside
from pyrolvm_guides._params import learnable

__all__ = ["EmptyGuide", "JointGuide"]


class EmptyGuide(PyroModule):
    """The guide of a model without continuous latent sites: it samples nothing and has no parameters.

    Its evidence bound is then the log density of the data itself, once discrete sites are summed out.
    """

    def __init__(self, family: str) -> None:
        super().__init__(family)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Returns an empty draw."""
        return {}


class JointGuide(PyroModule):
    r"""A density :math:`q(z)` on the unconstrained vector, pushed through the sites' bijections.

    The guide samples one auxiliary site with the density of :math:`z`, then every latent site as a point mass at
    :math:`x_i = t_i(z_i)` that carries :math:`-\log|\det \partial t_i/\partial z_i|`. The log probabilities of its
    sites therefore sum to :math:`\log q(x)` exactly.

    With ``problem`` it works in the posterior's frame (:func:`pyrolvm.family.starting_frame`): :math:`q` is then the density of
    whitened coordinates, which start as a standard normal, and :meth:`prepare` finds the frame before the optimisation begins.

    Args:
        family: the name for messages and parameters.
        layout: the sites.
        init_scale: the initial standard deviation in every direction, outside a frame.
        problem: the model with its data, for a guide in a frame.

    Attributes:
        scores_cheaply: whether the density of a value that the guide did not draw costs no more than that of a draw; its gradients
            are then taken without the score, which is noise.
        held: names of parameters that the optimisation leaves alone.
        modes: how many modes the ascents to the frame found apart; 0 without a frame.
        start: where the density starts, in its own coordinates.
        initial_scale: its initial standard deviation there.

    Raises:
        GuideError: if the model subsamples a plate of latent sites.
    """

    scores_cheaply = False

    def __init__(self, family: str, layout: Layout, init_scale: float = 1.0, problem: Problem | None = None) -> None:
        super().__init__(family)
        refuse_subsampling(family, layout)
        self.family = family
        self.layout = layout
        self._keep_model(None if problem is None else problem.model)
        self.start, self.spread, self.initial_scale = layout.start, layout.spread, init_scale
        self.held: tuple[str, ...] = ()
        self.modes = 0
        self._dependent: dict[str, str] = {}
        if problem is not None:
            self._open_frame(problem, init_scale)

    def _keep_model(self, model: Callable[..., Any] | None) -> None:
        """Keeps the model as a plain attribute: one that is a module is not a part of the guide."""
        self.__dict__["model"] = model

    def _open_frame(self, problem: Problem, init_scale: float) -> None:
        layout = self.layout
        self.frame_loc = learnable(layout.start)
        self.frame_tril = learnable(init_scale * torch.eye(layout.size, dtype=layout.dtype, device=layout.device))
        self._open_centring(problem)
        self.held = ("frame_loc", "frame_tril", *self._dependent.values())
        self.start, self.spread, self.initial_scale = (
            torch.zeros_like(layout.start), torch.ones_like(layout.spread), 1.0,
        )  # fmt: skip

    def _open_centring(self, problem: Problem) -> None:
        """A parameter for each site that depends on others: what the data say of it; coordinates are left as they are at first."""
        with torch.no_grad():
            lengths = Joint(problem).vectors()
        for i, latent in enumerate(self.layout.latents):
            if latent.name in lengths:
                self._dependent[latent.name] = f"centring_{i}"
                like = self.layout.start.new_zeros(latent.u_shape)
                setattr(self, f"centring_{i}", learnable(centred(like, lengths[latent.name])))

    def prepare(self, problem: Problem, *, seed: int) -> None:
        """Finds the frame; where there is none, the start and scale of the prior serve as one."""
        if "frame_tril" not in self.held:
            return
        try:
            frame = starting_frame(problem, seed=seed)
        except PyrolvmError:
            return
        family = frame.best.family
        self.modes = len(frame.modes)
        with torch.no_grad():
            self.frame_loc.copy_(torch.as_tensor(family.means[0]).to(self.layout.start))
            self.frame_tril.copy_(torch.as_tensor(family.trils[0]).to(self.layout.start))
        self.set_centring(frame.centring)

    def set_centring(self, centring: Mapping[str, Tensor]) -> None:
        """Sets what the data say of dependent sites; the coordinates of those that are absent are left as they are."""
        with torch.no_grad():
            for name, key in self._dependent.items():
                parameter = getattr(self, key)
                parameter.copy_(
                    centring[name].to(parameter) if name in centring else torch.full_like(parameter, torch.inf)
                )

    def centring(self) -> dict[str, Tensor]:
        """What the data say of dependent sites, by site."""
        return {name: getattr(self, key).detach() for name, key in self._dependent.items()}

    def law(self) -> dist.TorchDistribution:
        """The density of the sites' coordinates: :meth:`posterior`, taken out of the frame."""
        if "frame_tril" not in self.held:
            return self.posterior()
        return Framed(self.posterior(), self.frame_loc.detach(), self.frame_tril.detach())

    def posterior(self) -> dist.TorchDistribution:
        """The density of the unconstrained vector: event shape ``(d,)``, with ``rsample`` and an exact ``log_prob``."""
        raise NotImplementedError

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Samples all latent sites.

        Args:
            *args: the model's arguments.
            **kwargs: the model's keyword arguments.

        Returns:
            The draw, by site name.

        Raises:
            GuideError: if the arguments bring other rows than the guide was built for.
        """
        plates = self.layout.open_plates()
        values = self.unconstrained(plates, args, kwargs)
        slopes: dict[str, Tensor] = {}
        centring = self.centring()
        if centring and self.model is not None:
            values, slopes = decentred(self.model, args, kwargs, values, centring)
        draw = {}
        for latent in self.layout.latents:
            with inside(plates, latent):
                point = latent.point(values[latent.name], slopes.get(latent.name))
                draw[latent.name] = pyro.sample(latent.name, point)
        return draw

    def unconstrained(self, plates: Mapping[str, pyro.plate], args: Any, kwargs: Any) -> dict[str, Tensor]:
        """Samples the unconstrained vector and cuts it into the sites' unconstrained values, by site name."""
        names = {name for latent in self.layout.latents for name in latent.plates}
        sizes = {name: plates[name].subsample_size for name in names}
        refuse_other_sizes(self.family, self.layout, sizes, args, kwargs)
        z = pyro.sample(f"_{self.family}_z", self.law(), infer={"is_auxiliary": True})
        return {latent.name: u for latent, u in self.layout.split(z)}
