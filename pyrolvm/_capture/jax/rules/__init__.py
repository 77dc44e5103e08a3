"""One small rule an operation: what an ATen operation is in ``jax.numpy``.

A rule is a function of the operation's own arguments, arrays in place of tensors. Rules stand in tables by name: ``"add"``
serves every overload of ``aten.add``, ``"add.Scalar"`` that one alone. Shapes and dtypes are checked and set by the
interpreter after every rule, so that a rule need not care for torch's type promotion.
"""

from __future__ import annotations

from pyrolvm._capture.jax.rules import implicit, indexing, linalg, networks, pointwise, reductions, shaping
from pyrolvm._capture.jax.rules.draws import DRAWS
from pyrolvm._capture.jax.rules.kinds import Rule

__all__ = ["DRAWS", "RULES"]

RULES: dict[str, Rule] = {
    **pointwise.RULES,
    **shaping.RULES,
    **indexing.RULES,
    **reductions.RULES,
    **linalg.RULES,
    **networks.RULES,
    **implicit.RULES,
}
