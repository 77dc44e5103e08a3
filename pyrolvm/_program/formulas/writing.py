"""A formula as the text of a Pyro program, with its priors in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pyrolvm._base.errors import ArgumentError, unknown_name
from pyrolvm._program.formulas.design import Design, Group

__all__ = ["FAMILIES", "SIZE", "Written", "write"]


@dataclass(frozen=True)
class Family:
    """How a response follows from the linear predictor.

    Attributes:
        law: the distribution of it, of ``eta`` and of the parameters.
        parameters: priors of what else it has; ``{scale}`` is the response's standard deviation.
        link: of the mean: ``"identity"``, ``"log"`` or ``"logit"``.
        values: what the response must be, in words.
    """

    law: str
    parameters: Mapping[str, str]
    link: str
    values: str


FAMILIES: dict[str, Family] = {
    "gaussian": Family("dist.Normal(eta, sigma)", {"sigma": "dist.Exponential({rate})"}, "identity", "numbers"),
    "student": Family(
        "dist.StudentT(nu, eta, sigma)", {"nu": "dist.Gamma(2.0, 0.1)", "sigma": "dist.Exponential({rate})"}, "identity", "numbers"
    ),
    "bernoulli": Family("dist.Bernoulli(logits=eta)", {}, "logit", "zeros and ones, or labels of two levels"),
    "binomial": Family("dist.Binomial(trials, logits=eta)", {}, "logit", "prop(successes, trials)"),
    "poisson": Family("dist.Poisson(eta.exp())", {}, "log", "counts"),
    "negative_binomial": Family(
        "dist.GammaPoisson(alpha, alpha / eta.exp())", {"alpha": "dist.Exponential(1.0)"}, "log", "counts"
    ),
    "gamma": Family("dist.Gamma(alpha, alpha / eta.exp())", {"alpha": "dist.Exponential(1.0)"}, "log", "numbers above zero"),
    "ordinal": Family("dist.OrderedLogistic(eta, cutpoints)", {}, "logit", "labels in order, or integers from 0 on"),
}  # fmt: skip
"""Families by name."""

SIZE = "size"
"""The argument of a program without any other: how many rows there are."""
TINY = 1e-12
"""What rounding leaves of a mean of zero."""
WIDE = 2.5
"""Prior sds in units in which a predictor has sd 1, and the response too where it is a quantity."""


@dataclass(frozen=True)
class Written:
    """A program, and what it is made of.

    Attributes:
        text: of the program, with its imports.
        name: of its function.
        priors: text of the prior of each site, in the program's order.
        dims: names of the dimensions of its sites.
        coords: labels along them.
    """

    text: str
    name: str
    priors: Mapping[str, str]
    dims: Mapping[str, list[str]]
    coords: Mapping[str, list[str]]


def write(design: Design, family: str, asked: Mapping[str, str]) -> Written:
    """Writes a program.

    Args:
        design: what the formula makes of its table.
        family: one of :data:`FAMILIES`.
        asked: priors in place of the default ones: the text of a Pyro distribution by site.

    Raises:
        UnknownNameError: if there is no such family, or no such site.
        ArgumentError: if the response does not suit the family.
    """
    if family not in FAMILIES:
        raise unknown_name("family", family, FAMILIES)
    law = FAMILIES[family]
    _check_response(design, family, law)
    priors = _priors(design, family, law)
    unknown = next((name for name in asked if name not in priors), None)
    if unknown is not None:
        raise unknown_name(f"site of {design.text!r}", unknown, priors)
    priors |= {name: str(text) for name, text in asked.items()}
    dims, coords = _dimensions(design)
    name = design.response.name
    return Written(_text(design, family, law, priors), f"{name}_{family}", priors, dims, coords)


def _check_response(design: Design, family: str, law: Family) -> None:
    response, values = design.response, design.response.values
    whole = bool(np.all(values == np.floor(values)) and values.min() >= 0)
    counts = whole and response.levels is None and not response.proportion
    good = {
        "gaussian": response.levels is None and not response.proportion,
        "student": response.levels is None and not response.proportion,
        "bernoulli": not response.proportion and set(np.unique(values)) <= {0.0, 1.0},
        "binomial": response.proportion,
        "ordinal": whole and not response.proportion,
        "gamma": response.levels is None and not response.proportion and bool((values > 0).all()),
    }.get(family, counts)
    if not good:
        what = (
            f"labels {', '.join(response.levels[:4])}"
            if response.levels
            else f"numbers from {values.min():g} to {values.max():g}"
        )
        raise ArgumentError(
            f"{response.text} of {design.text!r} has {what}, and family {family!r} takes {law.values}. "
            f"Fix: name the family that suits it: {', '.join(FAMILIES)}."
        )


def _figure(value: float) -> str:
    """A number for a program, three digits of it."""
    rounded = float(f"{value:.3g}")
    return f"{rounded!r}"


def _vector(values: tuple[float, ...], digits: int = 3) -> str:
    shown = (0.0 if abs(value) < TINY else value for value in values)
    return "[" + ", ".join(repr(float(f"{value:.{digits}g}")) for value in shown) + "]"


def _priors(design: Design, family: str, law: Family) -> dict[str, str]:
    values = design.response.values
    scale = float(values.std()) or 1.0 if law.link == "identity" else 1.0
    found: dict[str, str] = {}
    if family == "ordinal":
        size = int(values.max())
        normal = f"dist.Normal(0.0, {WIDE}).expand([{size}]).to_event(1)"
        found["cutpoints"] = f"dist.TransformedDistribution({normal}, dist.transforms.OrderedTransform())"
    elif design.intercept:
        middle = {"identity": float(values.mean()), "logit": 0.0, "log": math.log(max(float(values.mean()), 0.1))}[
            law.link
        ]
        if design.offset and law.link == "log":
            middle -= float(np.log(np.exp(np.asarray(design.table.get("offset", 0.0))).mean()))
        site = "centre" if design.columns else "Intercept"
        found[site] = f"dist.Normal({_figure(middle)}, {_figure(WIDE * scale)})"
    if design.columns:
        wide = tuple(WIDE * scale / one for one in design.scales)
        found["b"] = f"dist.Normal(0.0, X.new_tensor({_vector(wide)})).to_event(1)"
    for group in design.groups:
        found[f"sd_{group.name}"] = _spread_prior(group, scale)
        if len(group.terms) > 1:
            found[f"chol_{group.name}"] = f"dist.LKJCholesky({len(group.terms)}, 2.0)"
    return found | {name: text.format(rate=_figure(1.0 / scale)) for name, text in law.parameters.items()}


def _spread_prior(group: Group, scale: float) -> str:
    wide = tuple(WIDE * scale / one for one in group.scales)
    if len(group.terms) == 1:
        return f"dist.HalfNormal({_figure(wide[0])})"
    return f"dist.HalfNormal(Z_{group.name}.new_tensor({_vector(wide)})).to_event(1)"


def _dimensions(design: Design) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    dims: dict[str, list[str]] = {}
    coords: dict[str, list[str]] = {}
    if design.columns:
        dims["b"], coords["column"] = ["column"], list(design.columns)
    for group in design.groups:
        if len(group.terms) > 1:
            along = f"{group.name}_term"
            dims |= {f"{what}_{group.name}": [along] for what in ("sd", "effect")}
            dims[f"chol_{group.name}"] = [along, f"{along}_2"]
            coords |= {along: list(group.terms), f"{along}_2": list(group.terms)}
    return dims, coords


def _text(design: Design, family: str, law: Family, priors: Mapping[str, str]) -> str:
    response = design.response.name
    names = _arguments(design)
    lines = [f"def {response}_{family}({', '.join(names)}, {response}=None):", f'    """{design.text}, {family}."""']
    if design.columns:
        lines.append(f"    # columns of X: {', '.join(design.columns)}")
    if design.response.levels:
        lines.append(
            f"    # {response}: {', '.join(f'{i} is {level}' for i, level in enumerate(design.response.levels))}"
        )
    inner = _common(design, family, priors)
    for group in design.groups:
        inner += _effects(group, priors)
    inner += [f'{name} = pyro.sample("{name}", {priors[name]})' for name in law.parameters]
    inner += [
        f'with pyro.plate("row", {names[0] if names == [SIZE] else f"len({names[0]})"}):',
        f"    eta = {_predictor(design, family)}",
        f'    pyro.sample("{response}", {law.law}, obs={response})',
    ]
    body = "\n".join([*lines, *(f"    {line}" for line in inner)])
    return f"import pyro\nimport pyro.distributions as dist\n\n\n{body}\n"


def _arguments(design: Design) -> list[str]:
    """The arguments of a program but for the response."""
    names = ["X"] if design.columns else []
    for group in design.groups:
        names += [group.name, *([f"Z_{group.name}"] if group.slopes is not None else [])]
    names += [*(["offset"] if design.offset else []), *(["trials"] if design.response.proportion else [])]
    return names or [SIZE]


def _common(design: Design, family: str, priors: Mapping[str, str]) -> list[str]:
    """Lines for the coefficients that all rows share; those of ``X`` are of columns less their means."""
    lines = []
    for site in ("cutpoints", "centre", "Intercept"):
        if site in priors:
            told = "  # where all columns have their means" if site == "centre" else ""
            lines.append(f'{site} = pyro.sample("{site}", {priors[site]}){told}')
    if design.columns:
        lines.append(f'b = pyro.sample("b", {priors["b"]})')
        if _centred(design, family):
            lines.append(f"means = X.new_tensor({_vector(design.center, 9)})")
        if "centre" in priors:
            lines.append('pyro.deterministic("Intercept", centre - (means * b).sum(-1))')
    return lines


def _centred(design: Design, family: str) -> bool:
    return design.intercept or family == "ordinal"


def _effects(group: Group, priors: Mapping[str, str]) -> list[str]:
    """Lines for the effects of a factor's levels."""
    name, size = group.name, len(group.terms)
    lines = [f'sd_{name} = pyro.sample("sd_{name}", {priors[f"sd_{name}"]})']
    law = f"dist.Normal(0.0, sd_{name})"
    if size > 1:
        lines.append(f'chol_{name} = pyro.sample("chol_{name}", {priors[f"chol_{name}"]})')
        lines.append(f"scale_{name} = sd_{name}.unsqueeze(-1) * chol_{name}")
        law = f"dist.MultivariateNormal(sd_{name}.new_zeros({size}), scale_tril=scale_{name})"
    lines.append(f'with pyro.plate("{name}_level", int({name}.max()) + 1):')
    lines.append(f'    effect_{name} = pyro.sample("effect_{name}", {law})')
    return lines


def _predictor(design: Design, family: str) -> str:
    """The linear predictor of rows."""
    parts = []
    if design.intercept and family != "ordinal":
        parts.append("centre" if design.columns else "Intercept")
    if design.columns:
        parts.append("(X - means) @ b" if _centred(design, family) else "X @ b")
    if design.offset:
        parts.append("offset")
    for group in design.groups:
        name = group.name
        if len(group.terms) > 1:
            parts.append(f"(Z_{name} * effect_{name}[{name}]).sum(-1)")
        elif group.slopes is not None:
            parts.append(f"Z_{name}[:, 0] * effect_{name}[{name}]")
        else:
            parts.append(f"effect_{name}[{name}]")
    return " + ".join(parts)
