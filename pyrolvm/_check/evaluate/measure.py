"""What is measured besides densities: units, bits, pictures, and the distance from other data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyrolvm._base.errors import ArgumentError
from pyrolvm._check.evaluate.decoding import Decoder, interpolated, traversed
from pyrolvm._check.evaluate.scoring import Scorer
from pyrolvm._check.evaluate.summary import by_row, together
from pyrolvm._diagnosis.collapse import ACTIVE
from pyrolvm._program.image import Image
from pyrolvm._program.problem import Problem
from pyrolvm._results import Fit
from pyrolvm._results.draws import rebuild

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scored", "bits", "choose_image", "pictures", "prior_of", "score", "units"]

Array = NDArray[np.float64]

PAIRS, STEPS, EXAMPLES, SAMPLES, TRAVERSED = 6, 11, 12, 36, 8
"""Interpolations and their points, reconstructions, samples, and units that are moved, in the pictures."""

PRIOR_ROWS = 2_000
"""Draws of the prior for its mean and variance."""


@dataclass(frozen=True)
class Scored:
    """The rows of one data set.

    Attributes:
        table: the figures of each row.
        bounds: the bound of so many draws, by row.
        means: posterior means by site, ``(rows, units)``.
        variances: posterior variances by site.
        engine: what ran.
        reason: why not a graph, where it is none.
    """

    table: pd.DataFrame
    bounds: Mapping[int, Array]
    means: Mapping[str, Array]
    variances: Mapping[str, Array]
    engine: str
    reason: str


def score(
    fit: Fit,
    problem: Problem,
    plate: str,
    rows: torch.Tensor,
    draws: int,
    seed: int,
    told: Callable[[int], None],
    *,
    new: bool = True,
) -> Scored:
    """Weighs rows of a problem under a fit, in a session of its own."""
    with problem.session(seed=seed, params=fit.params):
        guide = None if fit.guide is None or not problem.latents else rebuild(fit.attached, fit.guide)
        scorer = Scorer(problem, plate, guide)
        scorer.check(fit.name, new=new)
        parts, means, variances = [], [], []
        for block in scorer.blocks(rows.to(problem.device), draws, told):
            parts.append(by_row(block, exact=scorer.exact))
            means.append(block.means)
            variances.append(block.variances)
    table, bounds = together(parts)
    engine = "torch, captured" if scorer.engine != "pyro" else "pyro"
    engine += " and compiled" if scorer.compiled else ""
    return Scored(
        table, bounds, {name: np.concatenate([m[name] for m in means]) for name in means[0]},
        {name: np.concatenate([v[name] for v in variances]) for name in variances[0]}, engine, scorer.reason,
    )  # fmt: skip


# --- what the data are ------------------------------------------------------------------------------------------------


def choose_image(problem: Problem, shape: Any, levels: int | None) -> tuple[str, Image | None]:
    """The observed site that is looked at, and its image where it is said to be one.

    Raises:
        ArgumentError: if no observed site has as many values.
    """
    sizes = {site.name: math.prod(site.shape[len(site.batch_shape) :]) for site in problem.observed}
    known = problem.info.images
    site = next((name for name in sizes if name in known), next(iter(sizes)))
    if shape is None:
        image = known.get(site)
        return site, image if image is None or levels is None else Image.of(image, levels=levels)
    image = Image.of(shape, levels=levels)
    fitting = [name for name, size in sizes.items() if size == image.size]
    if not fitting:
        told = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise ArgumentError(
            f"shape={shape!r} has {image.size} pixels, and a row of no observed site has as many: {told} values. "
            "Fix: pass the height and width of one row."
        )
    return fitting[0], image


def bits(problem: Problem, plate: str, levels: int | None, values: Array | None) -> tuple[float, float, str]:
    """How nats of a row become bits of a dimension: ``bits = (shift - nats) / scale``, and in what sense.

    Raises:
        ArgumentError: if the figure has no meaning, saying why.
    """
    rows = problem.plates[plate].size
    count = sum(site.numel for site in problem.observed) / rows
    scale = count * math.log(2)
    if all(_discrete(site.support) for site in problem.observed):
        return 0.0, scale, f"{count:.0f} discrete values a row"
    if levels is None:
        raise ArgumentError(
            "the likelihood is a density, which has bits once its values stand for levels: pass levels=256, say"
        )
    if values is None or len(problem.observed) > 1:
        raise ArgumentError("it observes several sites, of which not all are discrete")
    if values.min() < 0 or values.max() > 1:
        raise ArgumentError(
            f"values span {values.min():.3g} to {values.max():.3g}, and levels are known of (level + noise) / levels, from 0 to 1"
        )
    exact = (
        np.abs(values * levels - np.rint(values * levels)).max(),
        np.abs(values * (levels - 1) - np.rint(values * (levels - 1))).max(),
    )
    if min(exact) < 1e-3:
        raise ArgumentError(
            "values lie on levels, where a density can be as high as one likes: dequantise them, (level + noise) / levels with uniform "
            "noise"
        )
    return (
        count * math.log(levels),
        scale,
        f"{count:.0f} values a row, dequantised from {levels} levels: an upper bound",
    )


def _discrete(support: object) -> bool:
    return bool(getattr(support, "is_discrete", False))


# --- units ------------------------------------------------------------------------------------------------------------


def prior_of(fit: Fit, problem: Problem, plate: str, site: str, seed: int) -> dict[str, tuple[Array, Array]]:
    """Mean and variance of the prior of each unit, over draws and rows, by continuous latent site."""
    found: dict[str, list[Array]] = {latent.name: [] for latent in problem.continuous}
    with problem.session(seed=seed, params=fit.params):
        decoder = Decoder(problem, plate, site)
        rows = decoder.rows(min(problem.plates[plate].size, 500))
        with torch.no_grad():
            for _ in range(-(-PRIOR_ROWS // len(rows))):
                trace = decoder.trace(rows)
                for name, draws in found.items():
                    draws.append(_units(problem, plate, name, trace.nodes[name]["value"]))
    drawn = {name: np.concatenate(draws) for name, draws in found.items()}
    return {name: (values.mean(axis=0), values.var(axis=0)) for name, values in drawn.items()}


def _units(problem: Problem, plate: str, name: str, value: torch.Tensor) -> Array:
    dim = problem.plates[plate].dim
    assert dim is not None
    moved = value.movedim(value.dim() - problem.sites[name].event_dim + dim, 0)
    return np.asarray(moved.reshape(len(moved), -1).double().cpu().numpy())


def units(scored: Scored, priors: Mapping[str, tuple[Array, Array]], draws: int) -> pd.DataFrame:
    """A row for each unit: the variance of its posterior mean over rows and the mean posterior variance, in units of the prior's.

    References:
        Burda, Grosse, Salakhutdinov, *Importance weighted autoencoders*, https://arxiv.org/abs/1509.00519 (active units)
    """
    import pandas as pd

    rows = []
    for name, means in scored.means.items():
        noise = scored.variances[name].mean(axis=0) / draws  # what a mean of so many draws varies by
        prior = np.maximum(priors[name][1], 1e-300)
        moved = np.maximum(means.var(axis=0) - noise, 0.0) / prior
        kept = scored.variances[name].mean(axis=0) / prior
        count = means.shape[1]
        rows += [
            (name if count == 1 else f"{name}[{i}]", name, float(moved[i]), float(kept[i]), bool(moved[i] > ACTIVE))
            for i in range(count)
        ]
    columns = ["unit", "site", "variance_of_mean", "posterior_variance", "active"]
    return pd.DataFrame(rows, columns=columns).set_index("unit")


# --- pictures ---------------------------------------------------------------------------------------------------------


@dataclass
class Pictures:
    """Arrays of pictures by name, dims first the ones that number them, and what was left out."""

    arrays: dict[str, Array] = field(default_factory=dict)
    titles: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def pictures(
    fit: Fit, problem: Problem, plate: str, site: str, scored: Scored, table: pd.DataFrame | None,
    priors: Mapping[str, tuple[Array, Array]], seed: int,
) -> Pictures:  # fmt: skip
    """Reconstructions, samples, interpolations and traversals, each where it can be had; arrays row first, as the site has them."""
    made = Pictures()
    with problem.session(seed=seed, params=fit.params):
        decoder = Decoder(problem, plate, site)

        def attempt(name: str, make: Callable[[], Any]) -> None:
            try:
                made.arrays.update(make())
            except Exception as error:  # a model that cannot be run so is no reason to lose the rest
                made.left_out[name] = (
                    f"the model does not run so: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
                )

        attempt("samples", lambda: dict(zip(("samples", "sampled data"), decoder.sample(SAMPLES), strict=True)))
        numbers = scored.table.index.to_numpy()
        shown = torch.tensor(numbers[:EXAMPLES], device=problem.device)
        if not problem.latents:
            why = "nothing is latent"
            made.left_out |= {"reconstructions": why, "interpolations": why, "traversals": why}
            attempt("data", lambda: {"data": decoder.observed(shown)})
            return made
        missing = [latent.name for latent in problem.discrete]
        means = {name: values[: max(EXAMPLES, 2 * PAIRS)] for name, values in scored.means.items()}
        local = _Numbered(decoder, numbers)
        first = {name: values[: len(shown)] for name, values in means.items()}
        attempt(
            "reconstructions",
            lambda: {
                "data": decoder.observed(shown), "reconstructions": decoder.decode(shown, decoder.values(shown, first))
            },
        )  # fmt: skip
        if missing:
            made.notes.append(f"pictures take a prior draw of the discrete {', '.join(missing)}")
        count = len(next(iter(means.values()))) if means else 0
        pairs = [(2 * i, 2 * i + 1) for i in range(min(PAIRS, count // 2))]
        if not means or not pairs:
            why = "no latent is continuous" if not means else "there is one row alone"
            made.left_out["interpolations"] = why
        else:
            attempt("interpolations", lambda: {"interpolations": interpolated(local, means, pairs, STEPS)})
        for name in means:
            order = _most_active(table, name)
            if not order:
                made.left_out[f"traversals of {name}"] = "no unit of it is active"
                continue
            centre, variance = priors[name]
            scale = np.sqrt(variance)
            key = f"traversals of {name}"
            before = set(made.left_out)
            attempt(key, partial(_traversal, local, means, name, order, scale, centre))
            if set(made.left_out) == before:
                made.titles[key] = [f"{name}[{i}]" if len(scale) > 1 else name for i in order]
        if decoder.sampled or local.sampled:
            made.notes.append(f"the likelihood of {site} knows no mean: pictures are draws of it")
    return made


def _traversal(
    decoder: Decoder, means: Mapping[str, Array], name: str, order: list[int], scale: Array, centre: Array
) -> dict[str, Array]:
    return {f"traversals of {name}": traversed(decoder, means, name, order, 0, scale, centre, STEPS)}


class _Numbered(Decoder):
    """A decoder whose rows are numbered as those that were scored."""

    def __init__(self, decoder: Decoder, numbers: Array) -> None:
        super().__init__(decoder.problem, decoder.plate.name, decoder.site)
        self._numbers = torch.tensor(numbers, device=decoder.problem.device)

    def rows(self, count: int, start: int = 0) -> torch.Tensor:
        return self._numbers[start : start + count]


def _most_active(table: pd.DataFrame | None, site: str) -> list[int]:
    """The units of a site that vary most with the data, active ones alone."""
    if table is None:
        return []
    mine = table[table["site"] == site].reset_index(drop=True)
    chosen = mine[mine["active"]].sort_values("variance_of_mean", ascending=False, kind="stable")
    return [int(i) for i in chosen.index[:TRAVERSED]]
