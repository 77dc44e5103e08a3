"""Discrete sites made continuous, so that their draws have gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrolvm._base.errors import GuideError, positive_float
from pyrolvm._compat.pyro import is_marked_deterministic, mask_of
from pyrolvm._program.traces import Message

__all__ = ["relax"]


def relax(program: Callable[..., object], temperature: float = 0.5) -> Callable[..., object]:
    """The same model or guide with unobserved Bernoulli and one-hot sites as Concrete ones of the same logits.

        >>> model = lvm.relax(lvm.problem("discrete_vae").model, temperature=0.6)

    A Concrete (Gumbel-softmax) draw lies between the values of the discrete one and has a gradient; the lower the temperature, the
    closer it is to them and the noisier the gradient. Relax both programs: then their ELBO is the exact bound of the *relaxed* model,
    which is not that of the discrete one. Judge a fit by the discrete programs.

    Args:
        program: a Pyro model or guide.
        temperature: above zero; about 0.5 to 0.7 is common.

    Returns:
        A program that is called like the one given.

    Raises:
        ArgumentError: if the temperature is not positive.
        GuideError: when it runs, if a discrete site has neither Bernoulli nor one-hot values.

    References:
        Maddison, Mnih, Teh, The Concrete Distribution, https://arxiv.org/abs/1611.00712
        Jang, Gu, Poole, Categorical Reparameterization with Gumbel-Softmax, https://arxiv.org/abs/1611.01144
    """
    positive_float("temperature", temperature)

    @functools.wraps(program)
    def relaxed(*args: Any, **kwargs: Any) -> object:
        with _Relaxed(float(temperature)):
            return program(*args, **kwargs)

    return relaxed


class _Relaxed(Messenger):
    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"] and not is_marked_deterministic(msg):
            msg["fn"] = self._continuous(msg["name"], msg["fn"])

    def _continuous(self, name: str, fn: dist.TorchDistribution) -> Any:
        if isinstance(fn, dist.Independent | torch.distributions.Independent):
            return self._continuous(name, fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
        support = getattr(fn, "support", None)
        if support is None or not getattr(support, "is_discrete", False):
            return fn
        if isinstance(fn, dist.MaskedDistribution):
            return self._continuous(name, fn.base_dist).mask(mask_of(fn))
        if isinstance(fn, torch.distributions.Bernoulli):
            return dist.RelaxedBernoulli(self._temperature(fn.logits), logits=fn.logits)
        if isinstance(fn, torch.distributions.OneHotCategorical):
            return dist.RelaxedOneHotCategorical(self._temperature(fn.logits), logits=fn.logits)
        raise GuideError(
            f"site {name!r} is {type(fn).__name__}, which has no continuous relative: a value between two of its values means nothing "
            "to the model. Fix: write it as OneHotCategorical or Bernoulli, or use the score function, which takes any discrete site."
        )

    def _temperature(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.temperature)
