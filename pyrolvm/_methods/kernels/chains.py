"""Chains side by side: draws in blocks, in lanes that run in threads.

A chain's draws follow from its key, where it began and what was tuned, and neither from the chains beside it nor from the threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pyrolvm._base.interrupts import held
from pyrolvm._base.machine import available
from pyrolvm._base.numerics import Array
from pyrolvm._base.progress import Progress
from pyrolvm._methods.kernels.kinds import Key, Row, Setting, State, Value
from pyrolvm._methods.kernels.tuning import Ensemble, Tuned, Whole, density_at
from pyrolvm._methods.nuts.checkpoint import ChainKeeper

__all__ = ["Drawn", "draw", "lanes", "packed", "unpacked"]

LANE = 32
"""Chains of one call: enough to fill a processor's vectors, and few enough that other processors have some too."""

ROW = tuple(Row.__annotations__)
"""The names of what is kept of a draw."""

BLOCK_SECONDS = 0.25
BLOCK_NUMBERS = 4_000_000


@dataclass(frozen=True)
class Drawn:
    """The kept draws of all chains.

    Attributes:
        points: in unconstrained space, shape ``(chains, draws, n)``.
        rows: what is known of each, by the names of :class:`~pyrolvm._methods.kernels.kinds.Row`, shape ``(chains, draws)``.
        interrupted: whether the run was stopped before its end.
        compiling: seconds until the first block was compiled.
    """

    points: Array
    rows: dict[str, Array]
    interrupted: bool
    compiling: float


def lanes(chains: int) -> int:
    """How many chains go together: the most that divide them evenly, up to 32; all, where only few would."""
    most = max(size for size in range(1, min(chains, LANE) + 1) if chains % size == 0)
    return chains if most < LANE // 4 and chains > LANE else most


def draw(
    ensemble: Ensemble,
    tuned: Tuned,
    draws: int,
    progress: Progress,
    context: Callable[[], AbstractContextManager[None]],
    keeper: ChainKeeper | None = None,
    pieces: list[Any] | None = None,
) -> Drawn:
    """Takes so many draws of each chain.

    Args:
        ensemble: the chains.
        tuned: where they are, and by what they move.
        draws: how many of each.
        progress: told of draws.
        context: the precision that everything runs in, for each thread its own.
        keeper: where checkpoints go.
        pieces: what a run before this one drew, if it is gone on with.
    """
    import jax

    size, chains = lanes(len(ensemble.keys)), len(ensemble.keys)
    parts = [slice(first, first + size) for first in range(0, chains, size)]
    states = [jax.tree.map(lambda leaf, part=part: leaf[part], tuned.states) for part in parts]
    blocks: list[dict[str, Array]] = list(pieces or [])
    saved = len(blocks)
    began = time.perf_counter()
    with context():
        rows = max(1, min(draws, BLOCK_NUMBERS // (size * ensemble.size)))
        advance = _compiled(ensemble, tuned, states[0], size, rows)
    compiling = time.perf_counter() - began
    done, count = sum(block["x"].shape[1] for block in blocks), 1

    def one(lane: int, count: int) -> tuple[State, dict[str, Array]]:
        with context():
            state, found = advance(states[lane], ensemble.keys[parts[lane]], done, count)
            return state, {name: np.asarray(leaf)[:count].swapaxes(0, 1) for name, leaf in found.items()}

    def look(*, now: bool = False) -> None:
        nonlocal saved
        if keeper is None:
            return
        fresh = blocks[saved:]

        def drawn() -> dict[str, Array] | None:
            return {n: np.concatenate([b[n] for b in fresh], axis=1) for n in fresh[0]} if fresh else None

        def state() -> dict[str, Any]:
            whole = jax.tree.map(lambda *leaves: np.concatenate([np.asarray(leaf) for leaf in leaves]), *states)
            return packed(Tuned(tuned.whole, tuned.setting, whole, tuned.gradients))

        if keeper.look(ensemble.kernel.name, state, drawn, now=now):
            saved = len(blocks)

    interrupted = False
    with ExitStack() as stack:
        pending = stack.enter_context(held())
        pool = stack.enter_context(
            ThreadPoolExecutor(min(available(), len(parts)), thread_name_prefix=ensemble.kernel.name)
        )
        try:
            while done < draws:
                count = min(count, draws - done, rows)
                at = time.perf_counter()
                after = list(pool.map(one, range(len(parts)), [count] * len(parts)))
                states = [state for state, _ in after]
                blocks.append({n: np.concatenate([found[n] for _, found in after]) for n in after[0][1]})
                done += count
                pace = count * BLOCK_SECONDS / max(time.perf_counter() - at, 1e-6)
                count = int(min(max(pace, 1), 4 * count))
                progress.update(chains * done, partial("step size {:.2g}".format, float(tuned.setting["step_size"])))
                look()
                pending.check()
        except KeyboardInterrupt:
            look(now=True)
            interrupted = True
    if not blocks:
        return Drawn(np.zeros((chains, 0, ensemble.size)), {}, interrupted, compiling)
    found = {name: np.concatenate([block[name] for block in blocks], axis=1) for name in blocks[0]}
    points = tuned.whole.plain(found.pop("x").astype(np.float64))
    return Drawn(points, found, interrupted, compiling)


def _compiled(ensemble: Ensemble, tuned: Tuned, like: State, size: int, rows: int) -> Callable[..., Value]:
    """A function that takes a lane's chains so many draws further."""
    import jax
    import jax.numpy as jnp

    def advance(
        states: State, keys: Key, start: Value, count: Value, setting: Setting, whole: Whole, data: tuple[Value, ...]
    ) -> State:
        density = density_at(ensemble, whole, data)

        def body(i: Value, carry: Value) -> State:
            states, kept = carry
            inside = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 5), start + i))(keys)
            states, row = jax.vmap(lambda key, state: ensemble.kernel.move(key, state, density, setting))(
                inside, states
            )
            found = {"x": states.position, **dict(zip(ROW, row, strict=True))}
            return states, {name: kept[name].at[i].set(found[name].astype(kept[name].dtype)) for name in kept}

        shapes = {"x": (size, ensemble.size), **dict.fromkeys(ROW, (size,))}
        kinds = {"diverging": jnp.bool_, "gradients": jnp.int32}
        kept = {name: jnp.zeros((rows, *shape), kinds.get(name, ensemble.dtype)) for name, shape in shapes.items()}
        return jax.lax.fori_loop(0, count, body, (states, kept))

    arguments = (tuned.setting, tuned.whole, ensemble.data)
    made = jax.jit(advance).lower(like, ensemble.keys[:size], 0, 0, *arguments).compile()
    return lambda states, keys, start, count: made(states, keys, start, count, *arguments)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def packed(tuned: Tuned) -> dict[str, Any]:
    """What was tuned and where chains are, as values that a checkpoint holds."""
    import jax

    return {
        "mean": np.asarray(tuned.whole.mean), "root": np.asarray(tuned.whole.root), "gradients": tuned.gradients,
        "setting": {name: np.asarray(value) for name, value in tuned.setting.items()},
        "states": [np.asarray(leaf) for leaf in jax.tree.leaves(tuned.states)],
    }  # fmt: skip


def unpacked(saved: dict[str, Any], like: State) -> Tuned:
    """What :func:`packed` made values of; ``like`` has the structure of the states."""
    import jax

    states = jax.tree.unflatten(jax.tree.structure(like), [np.asarray(leaf) for leaf in saved["states"]])
    return Tuned(Whole(saved["mean"], saved["root"]), dict(saved["setting"]), states, int(saved["gradients"]))
