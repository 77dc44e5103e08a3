"""What is used of JAX that it does not promise to keep."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src import compilation_cache, config

from pyrolvm._capture.jax import QUICK, UNFUSED, compiled
from pyrolvm._compat import jax as private

STATE = ("_cache", "_cache_initialized", "_cache_checked", "_cache_used")


def test_it_is_known_whether_jax_has_started() -> None:
    jax.devices("cpu")
    assert private.started()


@pytest.mark.parametrize("options", [None, QUICK, UNFUSED])
def test_jax_takes_programs_from_a_store_and_gives_it_those_it_compiles(
    options: dict[str, object] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYROLVM_CACHE", str(tmp_path / "programs"))
    before = {name: getattr(compilation_cache, name) for name in STATE}
    x = np.arange(4.0, dtype=np.float32)

    def again() -> np.ndarray:
        jax.clear_caches()  # as in another process
        lowered = jax.jit(lambda x: jax.numpy.cumsum(x * x) - jax.numpy.sin(x)).lower(x)
        return np.asarray(compiled(lowered, options)(x))

    first = again()
    (file,) = (tmp_path / "programs").iterdir()
    kept = file.read_bytes()
    assert b"pickle" not in kept
    made = file.stat().st_ino
    assert np.array_equal(again(), first)
    assert [path.stat().st_ino for path in (tmp_path / "programs").iterdir()] == [made]  # read, not written anew
    file.write_bytes(kept[:-20] + bytes(20))
    assert np.array_equal(again(), first)  # damaged, and so compiled again
    assert {name: getattr(compilation_cache, name) for name in STATE} == before


def test_a_store_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    with config.compilation_cache_dir(str(tmp_path / "theirs")), private.stored_in(None) as used:  # type: ignore[arg-type]
        assert not used
