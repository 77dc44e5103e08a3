"""27 posteriors of posteriordb as Pyro programs, with their data and reference draws.

    >>> from pyrolvm_models import posteriordb
    >>> problem = lvm.problem("posteriordb", posterior="kidiq-kidscore_momiq")
    >>> fit = lvm.infer(problem, seed=0)
    >>> lvm.compare({"infer": fit, "Stan": posteriordb.reference("kidiq-kidscore_momiq")}, reference="Stan")

Programs were written from the mathematical description of the posteriors. Sites are named as in the reference draws. Where those
hold transformed parameters, the program records these by ``pyro.deterministic``, and ``TO_SITES`` has the way back to the sampled
sites; where the reference's density is that of other coordinates, ``VOLUMES`` has the difference of the log densities. That the
densities are the same is tested on reference draws.

What is hard about them: correlated coefficients of uncentred predictors (most regressions), a funnel (``eight_schools_centered``),
heavy tails (``one_comp_mm_elim_abs``: two parameters have no variance), differential equations inside of the density.

Data: of the publications that posteriordb names, downloaded from there once (BSD 3-Clause) and verified.

References:
    Magnusson et al., posteriordb: Testing, Benchmarking and Developing Bayesian Inference Algorithms,
    https://arxiv.org/abs/2407.04967
"""

from __future__ import annotations

from pyrolvm_models.posteriordb.collection import (
    DESIGNS,
    PROBLEMS,
    TO_SITES,
    VOLUMES,
    columns,
    data,
    names,
    posteriordb,
    reference,
)

__all__ = ["DESIGNS", "PROBLEMS", "TO_SITES", "VOLUMES", "columns", "data", "names", "posteriordb", "reference"]
