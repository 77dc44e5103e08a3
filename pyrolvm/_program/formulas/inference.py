"""``formula``: from the text of a regression and a table to a problem."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.habits import verb
from pyrolvm._program.formulas.design import Design
from pyrolvm._program.formulas.writing import Written, write
from pyrolvm._program.frames import DESIGN, is_table
from pyrolvm._program.origin import SOURCE
from pyrolvm._program.problem import Problem, model

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Formula", "formula"]


class Formula(Problem):
    """A regression by a formula: a problem like any other, which shows its program and its priors.

    Attributes:
        code: the text of its Pyro program, to keep and to change: it needs nothing of pyrolvm.
        priors: the text of the prior of each site.
    """

    def __init__(self, written: Written, design: Design) -> None:
        super().__init__(_program(written, design), **design.table)
        object.__setattr__(self, "by_name", True)
        object.__setattr__(self, "code", written.text)
        object.__setattr__(self, "priors", dict(written.priors))

    code: str
    priors: dict[str, str]

    def __repr__(self) -> str:
        """The problem with its priors, a line each."""
        return "\n".join([super().__repr__(), *(f"  {site} ~ {prior}" for site, prior in self.priors.items())])


def _program(written: Written, design: Design) -> Any:
    """The function that a program's text defines, which remembers text and table."""
    scope: dict[str, Any] = {"__name__": "formula"}
    exec(compile(written.text, f"<{design.text}>", "exec"), scope)
    function = scope[written.name]
    setattr(function, SOURCE, written.text)
    setattr(function, DESIGN, design.arguments)
    return model(dims=written.dims, coords=written.coords)(function)


@verb
def formula(
    text: str, table: pd.DataFrame, *, family: str = "gaussian", priors: Mapping[str, str] | None = None
) -> Formula:
    """The problem that a formula and a data frame are, with the Pyro program for you to keep.

        >>> import pandas as pd
        >>> problem = lvm.formula("y ~ x + (1|g)", pd.DataFrame({"y": [2, 0, 3, 1], "x": [0.1, 0.5, 0.9, 1.3], "g": list("aabb")}),
        ...                       family="poisson")
        >>> print(problem)       # its sites and priors
        >>> print(problem.code)  # its program

    Columns less their means have coefficients ``b``, so that ``centre`` is the predictor where all have their means; ``Intercept`` is
    that at zero. ``(1|g)`` gives each level of ``g`` an intercept of its own, ``(1 + x|g)`` an intercept and a slope that may be
    correlated, ``(1|g) + (0 + x|g)`` ones that are not, ``(1|g:h)`` one for each pair. Interactions, ``scale(x)``, ``bs(x, df=4)``,
    ``offset(x)`` and functions of NumPy as ``np.log(x)`` are those of formulae, which has to be installed.

    Default priors are weak where predictors and response are seen in their own standard deviations: 2.5 of them for coefficients and
    spreads of effects; shapes are exponential. They follow from the table, and are text with numbers in the program.

    ``lvm.predict(posterior, new_frame)`` makes the columns of new rows as those of the fit were made. Levels of groups that the fit had
    not are new members.

    Args:
        text: the formula. ``prop(successes, trials)`` explains a share.
        table: a pandas data frame without missing values in what the formula names.
        family: ``"gaussian"``, ``"student"``, ``"bernoulli"`` and ``"binomial"`` (logit), ``"poisson"``, ``"negative_binomial"`` and
            ``"gamma"`` (log), or ``"ordinal"`` (cumulative logit). Of two labels of a Bernoulli response the second is the success.
        priors: in place of the default ones, the text of a Pyro distribution by site: ``{"sigma": "dist.HalfNormal(1.0)"}``. It is
            run as part of the program.

    Raises:
        ImportError: if formulae is not installed.
        ArgumentError: if the formula cannot be read, or the response does not suit the family.
        UnknownNameError: if there is no such family, or no site of a prior's name.

    References:
        Goodrich et al., *Prior distributions for rstanarm models*, https://mc-stan.org/rstanarm/articles/priors.html;
        Capretto et al. (2022), *Bambi: a simple interface for fitting Bayesian linear models in Python*,
        https://doi.org/10.18637/jss.v103.i15
    """
    if not isinstance(text, str) or not is_table(table):
        raise ArgumentError(
            f"formula takes a text and a data frame, got {type(text).__name__} and {type(table).__name__}. "
            'Fix: lvm.formula("y ~ x", frame).'
        )
    design = Design.of(text, table)
    return Formula(write(design, family, dict(priors or {})), design)
