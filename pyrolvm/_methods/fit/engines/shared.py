"""Steps that several processes take together: each on its share of a batch's rows, with the mean of all their gradients.

A step is that of one process on the whole batch, up to rounding. The density of a share is scaled to all rows, so that the mean over
shares of one length is the batch's; random numbers that all rows share are the same everywhere, since all processes draw alike, and of
those that rows have for themselves each process draws the whole batch's and keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyrolvm._base import randomness
from pyrolvm._base.errors import CaptureError, FitError
from pyrolvm._base.team import Team
from pyrolvm._capture import with_noise
from pyrolvm._capture.graph import Noise
from pyrolvm._methods.fit.engines.base import Work, columns
from pyrolvm._methods.fit.engines.captured import capture_objective
from pyrolvm._methods.fit.engines.torch_engine import TorchEngine
from pyrolvm._results.history import Taken

__all__ = ["SharedEngine", "begin_shared"]


def begin_shared(work: Work, chunk: int) -> tuple[SharedEngine, str]:
    """The engine for work that has a share.

    Args:
        work: what to optimise.
        chunk: how many steps a call may take.

    Raises:
        FitError: if the program cannot be captured, or draws what cannot be shared.
    """
    share = work.share
    assert share is not None
    try:
        with randomness.random_state(work.seed, work.problem.device):
            alone = replace(work, share=None)
            whole = with_noise(capture_objective(alone))
        own = with_noise(capture_objective(work))
        if len(whole.noise) != len(own.noise):
            raise CaptureError(
                f"a batch takes random numbers {len(whole.noise)} times, and a share of it {len(own.noise)}."
            )
        noise = [_shared(one, part, share) for one, part in zip(whole.noise, own.noise, strict=True)]
        if own.random:
            raise CaptureError(
                f"{own.random[0].name} draws from a distribution of its own, which cannot be drawn in parts."
            )
        engine = SharedEngine(work, replace(own, noise=tuple(noise)), chunk)
    except CaptureError as error:
        raise FitError(
            f"the steps of {work.problem.name!r} cannot be shared by {share.size} processes: {error} "
            "Fix: fit it in one process, or mend what is named."
        ) from error
    return engine, f"compiled by torch; each of {share.size} processes takes its share of the rows" + engine.note


class SharedEngine(TorchEngine):
    """Steps on a graph compiled by torch, whose gradients are the mean over processes.

    Args:
        work: what to optimise, with a share of the rows.
        captured: its objective on that share, with noise as inputs.
        chunk: how many steps a call may take.

    Raises:
        CaptureError: if the program cannot be captured.
    """

    moves = False

    def advance(self, first: int, factors: Sequence[float]) -> Taken:
        """Takes the steps one by one."""
        share = self.work.share
        assert share is not None
        found = []
        for step, factor in enumerate(factors, first):
            report, *gradients = self.evaluated(step)
            every = torch.stack(share.gathered(report.detach().cpu().double()))
            good = bool(every[:, 2].all())
            if good:
                mean = share.averaged(torch.cat([gradient.reshape(-1) for gradient in gradients]))
                parts = mean.split([gradient.numel() for gradient in gradients])
                for parameter, part in zip(self.params, parts, strict=True):
                    parameter.grad = part.reshape(parameter.shape)
                self.work.stepper.step(self.params, factor)
            loss, error = float(every[:, 0].mean()), float(every[:, 1].square().mean().sqrt())
            found.append((loss, error, self.work.stepper.learning_rate, good))
        return columns(found)


@dataclass(frozen=True)
class _Part(Noise):
    """The numbers of one process's rows, of those of all rows of a batch.

    Attributes:
        whole: those of all.
        axis: the dimension that has the rows.
        team: the processes.
    """

    whole: Noise
    axis: int
    team: Team

    def draw(self, step: int = 0) -> Tensor:
        """Draws all, and keeps its own."""
        own = self.team.part(self.whole.shape[self.axis])
        return self.whole.draw(step).narrow(self.axis, own.start, own.stop - own.start).contiguous()


def _shared(whole: Noise, part: Noise, team: Team) -> Noise:
    """The random numbers of one process.

    Args:
        whole: those of a step on the whole batch.
        part: those of a step on a share.
        team: the processes.

    Raises:
        CaptureError: if rows are not told by one dimension.
    """
    if whole == part:
        return part
    axes = [k for k, (all_of, some) in enumerate(zip(whole.shape, part.shape, strict=False)) if all_of != some]
    if (
        whole.kind != part.kind
        or len(whole.shape) != len(part.shape)
        or len(axes) != 1
        or (whole.shape[axes[0]] != team.size * part.shape[axes[0]])
    ):
        raise CaptureError(
            f"random numbers of shape {whole.shape} on a batch are of shape {part.shape} on a share of it."
        )
    return _Part(part.kind, part.shape, part.dtype, part.device, whole, axes[0], team)
