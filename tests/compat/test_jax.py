"""What is used of JAX that it does not promise to keep."""

from __future__ import annotations

import jax

from pyrolvm._compat import jax as private


def test_it_is_known_whether_jax_has_started() -> None:
    jax.devices("cpu")
    assert private.started()
