"""Private parts of nutpie: a sampler of one chain on a given density. All were checked with nutpie 0.16.8, 0.16.9 and 0.16.11.

nutpie's own functions compile a model of PyMC or Stan and return what ArviZ reads; its samplers are below these. Their
arguments grow from release to release, and are passed by name as far as a release has them.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

__all__ = ["WANTED", "called_sampler", "ended", "fault", "library", "native_sampler", "options", "trace", "waited"]

Array = np.ndarray[Any, Any]

WANTED = "nutpie>=0.16.8,<=0.16.11"
"""The releases that were tried, as pip wants them."""

_KNOWN = {
    "settings": None,
    "init_mean": None,
    "cores": 1,
    "model": None,
    "progress_type": None,
    "extra_callback": None,
    "extra_callback_rate": 1_000,
    "store": None,
}
"""The arguments that samplers take in any release, with what they are where no caller says more."""
_TELLS = 250
"""Milliseconds between two times that a sampler tells of its divergences."""
_NEEDED = (
    "LogpFunc",
    "ExpandFunc",
    "ProgressType.none",
    "ProgressType.template_callback",
    "PyMcModel",
    "PyNutsSettings.Diag",
    "PyNutsSettings.LowRank",
    "PySampler.abort",
    "PySampler.from_pymc",
    "PySampler.take_results",
    "PySampler.wait",
    "PyStorage.arrow",
    "PyVariable.new_variables",
)


def library() -> object:
    """The nutpie library (nutpie 0.16.8 to 0.16.11).

    Raises:
        ImportError: if it is not there, or cannot be imported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ArviZ, about its next version
        import nutpie

        return nutpie


def waited(sampler: Any, seconds: float) -> bool:
    """Whether a sampler is done, after waiting so long for it (nutpie 0.16.8 to 0.16.11).

    Raises:
        RuntimeError: if it stopped, or its thread panicked, which nutpie raises as an exception beside all others.
    """
    try:
        sampler.wait(seconds)
    except TimeoutError:
        return False
    except BaseException as error:
        if _is_panic(error):
            raise RuntimeError(str(error)) from error
        raise
    return True


def ended(sampler: Any) -> None:
    """Ends a sampler, whatever became of its thread (nutpie 0.16.8 to 0.16.11)."""
    try:
        sampler.abort()
    except BaseException as error:
        if not _is_panic(error):
            raise


def _is_panic(error: BaseException) -> bool:
    return type(error).__name__ == "PanicException"


@cache
def fault() -> str | None:
    """Why nutpie cannot be used as below; ``None`` if it can (nutpie 0.16.8 to 0.16.11)."""
    try:
        version = getattr(library(), "__version__", "")
        from nutpie import _lib
        from nutpie.compiled_pyfunc import PyFuncModel
    except Exception as error:  # whatever a broken extension raises
        return f"nutpie cannot be imported: {type(error).__name__}: {error}"
    absent = [name for name in _NEEDED if _found(_lib, name) is None]
    if absent:
        return f"nutpie {version} has no {', '.join(absent)}"
    for function in (_lib.PySampler.from_pymc, PyFuncModel._make_sampler):
        new = [name for name in _required(function) if name not in _KNOWN and name != "self"]
        if new:
            return f"nutpie {version} wants {', '.join(new)} of its samplers, which no release did that was tried"
    return None


def options(seed: int, *, dense: bool, warmup: int, draws: int, max_depth: int, target_accept: float) -> object:
    """The settings of one chain (nutpie 0.16.8 to 0.16.11).

    Args:
        seed: its seed.
        dense: whether the mass matrix is of low rank and more than diagonal.
        warmup: transitions that adapt.
        draws: transitions that are kept.
        max_depth: the most doublings of a trajectory.
        target_accept: the acceptance rate that the step size aims at.
    """
    from nutpie import _lib

    made = (_lib.PyNutsSettings.LowRank if dense else _lib.PyNutsSettings.Diag)(seed)
    made.num_chains, made.num_tune, made.num_draws = 1, warmup, draws
    made.maxdepth, made.target_accept = max_depth, target_accept
    made.store_mass_matrix = hasattr(
        made, "as_dict"
    )  # from 0.16.9 on, for the energies; before, it is stored at each draw
    return made


def called_sampler(
    chain: object,
    start: Array,
    log_density: Callable[[Array], tuple[float, Array]],
    stored: Callable[[Array], dict[str, Array]],
    diverged: Callable[[int], None] | None = None,
) -> object:
    """A sampler, running, of a density in Python (nutpie 0.16.8 to 0.16.11).

    Args:
        chain: the settings of :func:`options`.
        start: where it starts.
        log_density: returns value and gradient.
        stored: called once for each transition; returns ``{"x": point}``.
        diverged: told now and then how many transitions diverged so far.
    """
    from nutpie.compiled_pyfunc import from_pyfunc

    size = len(start)
    model = from_pyfunc(
        size, lambda: log_density, lambda *_: stored, [np.dtype("float64")], [(size,)], ["x"],
        make_initial_point_fn=lambda _: start,
    )  # fmt: skip
    return _made(model._make_sampler, settings=chain, init_mean=np.zeros(size), **_progress(diverged))


def native_sampler(
    chain: object, start: Array, address: int, data: int, identity: int, calls: int, kept: Sequence[object],
    diverged: Callable[[int], None] | None = None,
) -> object:  # fmt: skip
    """A sampler, running, of a density in C (nutpie 0.16.8 to 0.16.11).

    Args:
        chain: the settings of :func:`options`.
        start: where it starts.
        address: of the density, a :class:`pyrolvm._capture.native.NativeGradient`'s.
        data: of what the density takes.
        identity: of what copies a point, and counts its calls at ``calls``.
        calls: the address of that count.
        kept: what lives as long as the sampler.
        diverged: told now and then how many transitions diverged so far.
    """
    from nutpie import _lib

    n = len(start)
    variables = _lib.PyVariable.new_variables(["x"], ["float64"], [(n,)], {"i": n}, {"x": ["i"]})
    model = _lib.PyMcModel(
        _lib.LogpFunc(address, data, tuple(kept)),
        _lib.ExpandFunc(n, n, identity, calls, tuple(kept)),
        variables, n, {"i": n, "unconstrained_parameter": n}, {}, lambda seed: start, lambda *a, **k: None,
    )  # fmt: skip
    return _made(_lib.PySampler.from_pymc, settings=chain, model=model, **_progress(diverged))


def trace(sampler: Any, names: Sequence[str]) -> dict[str, Array]:
    """What a sampler that has ended stored: its point as ``"x"``, and statistics by name (nutpie 0.16.8 to 0.16.11)."""
    from arro3.core import list_flatten  # what nutpie hands its draws over in

    (draws,), (stats,) = sampler.take_results().get_arrow_trace()
    table = {name: np.asarray(stats.column(name).to_numpy()) for name in names}
    if "energy" in table:
        table["energy"] = table["energy"] - _energy_shift(stats)
    points = np.asarray(list_flatten(draws.column("x")).to_numpy(), float)
    table["x"] = points.reshape(draws.num_rows, -1) if draws.num_rows else np.empty((0, 0))
    return table


def _energy_shift(stats: Any) -> float:
    """By how much energies are above -log p plus kinetic energy, at the end of a run (nutpie 0.16.8 to 0.16.11).

    From 0.16.9 on they are those of the scaled coordinates that nutpie samples in, where densities are larger by the product of
    all scales. The scales are stored where they change, which they do in the warmup alone.
    """
    columns = set(stats.schema.names)
    if "transformation_index" not in columns:
        return 0.0
    shift = 0.0
    for name in ("mass_matrix_inv", "mass_matrix_stds", "mass_matrix_eigvals"):
        stored = [row for row in stats.column(name).to_pylist() if row is not None] if name in columns else []
        scales = np.asarray(stored[-1], float) if stored else np.ones(1)
        shift += float(np.nansum(np.log(scales)))
    return shift


def _progress(diverged: Callable[[int], None] | None) -> dict[str, object]:
    """What lets a sampler tell of its divergences (nutpie 0.16.8 to 0.16.11); it calls from a thread of its own."""
    if diverged is None:
        return {}
    from nutpie import _lib

    def told(text: str) -> None:
        if text.isdigit():
            diverged(int(text))

    template = "{% for chain in chains %}{{ chain.divergences }}{% endfor %}"
    return {"progress_type": _lib.ProgressType.template_callback(_TELLS, template, 1, told)}


def _made(function: Callable[..., object], **given: Any) -> object:
    """Calls what makes a sampler with the arguments that this release has."""
    from nutpie import _lib

    known = {**_KNOWN, "progress_type": _lib.ProgressType.none(), "store": _lib.PyStorage.arrow(), **given}
    return function(**{name: known[name] for name in inspect.signature(function).parameters if name in known})


def _required(function: Callable[..., object]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _found(home: object, path: str) -> object:
    for name in path.split("."):
        home = getattr(home, name, None)
    return home
