"""NumPyro's NUTS on a captured potential, driven in blocks of transitions.

One function is compiled, once: it takes a chain so many transitions further, whatever phase the chain is in. It also
evaluates the potential at the starts (a transition without momentum and step size is one gradient where the chain
stands), so that nothing else needs compiling. On a processor the chains run in threads, each its own call of that
function, which Python's lock does not hold up: a chain then depends on its own seed and start only. On an accelerator
they run side by side in one call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.interrupts import held
from pyrolvm._base.numerics import Array
from pyrolvm._capture.door import xla
from pyrolvm._compat.python import replaced
from pyrolvm._methods.nuts.base import Raw, Settings, depths, stage, workers
from pyrolvm._methods.nuts.checkpoint import ChainKeeper
from pyrolvm._methods.nuts.potential import Program, check_starts, numpy_dtype
from pyrolvm._program.density import Joint

__all__ = ["run"]

BLOCK_SECONDS = 0.1
BLOCK_NUMBERS = 1_000_000
"""A block holds at most so many numbers of draws, and 512 transitions."""

WARM = 100
"""What is known of the posterior from elsewhere counts as so many draws when a window's covariance is estimated."""

LARGE = 10_000
"""Numbers in a value from which on loops must be fast: without fused loops a compilation of one to two seconds takes half
as long and small values no longer, but values of 30,000 numbers a third longer."""

_ROWS = ("z", "potential_energy", "energy", "accept_prob", "step_size", "num_steps", "diverging")


@dataclass(eq=False)
class _Lane:
    """Chains that one call takes further: one chain, or all of them side by side.

    Attributes:
        state: NumPyro's state of the chains.
        together: whether its arrays have a leading dimension of chains.
        chains: how many chains.
        done: transitions done.
        rows: what the blocks after warmup returned, by name, each of shape ``(chains, transitions, ...)``.
    """

    state: Any
    together: bool
    chains: int
    done: int = 0
    count: int = 10
    rows: dict[str, list[Array]] = field(default_factory=lambda: {name: [] for name in _ROWS})
    warmup_steps: Array | int = 0
    divergences: int = 0
    step_sizes: Array | None = None

    def take(self, rows: dict[str, Array], count: int, warmup: int) -> None:
        """Files what a block of ``count`` transitions returned."""
        dropped = max(0, min(count, warmup - self.done))
        self.warmup_steps = self.warmup_steps + rows["num_steps"][:, :dropped].sum(1)
        for name, kept in self.rows.items():
            kept.append(rows[name][:, dropped:count].copy())
        self.divergences += int(rows["diverging"][:, dropped:count].sum())
        self.step_sizes = rows["step_size"][:, count - 1]
        self.done += count

    def snapshot(self) -> dict[str, object]:
        """Where it is, as nested values of numbers and arrays."""
        import jax

        leaves = [jax.random.key_data(one) if _is_key(one) else one for one in jax.tree.leaves(self.state)]
        return {
            "state": [np.asarray(leaf) for leaf in leaves], "done": self.done, "divergences": self.divergences,
            "warmup_steps": np.asarray(self.warmup_steps),
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Goes on from there; rows are added apart."""
        import jax

        leaves, tree = jax.tree.flatten(self.state)
        arrays = [
            jax.random.wrap_key_data(jax.numpy.asarray(new)) if _is_key(old) else np.array(new)
            for old, new in zip(leaves, saved["state"], strict=True)
        ]
        self.state = jax.tree.unflatten(tree, arrays)
        self.done, self.divergences, self.warmup_steps = saved["done"], saved["divergences"], saved["warmup_steps"]

    def drawn(self, start: int) -> dict[str, Array]:
        """The rows of its blocks from the ``start``-th on, which every column has as many of."""
        return {name: np.concatenate(blocks[start:], axis=1) for name, blocks in self.rows.items()}


def _is_key(leaf: Any) -> bool:
    import jax

    return bool(jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def run(joint: Joint, program: Program, starts: Tensor, seeds: Sequence[int], settings: Settings) -> Raw:
    """Runs one chain from each start; must be called inside a session.

    Args:
        joint: the density, for a comparison at the starts.
        program: its potential energy on JAX.
        starts: unconstrained starting points, shape ``(chains, unconstrained_size)``.
        seeds: one seed a chain.
        settings: how to run.

    Raises:
        Disagreement: if the potential is not what Pyro computes.
    """
    device = xla().device_of(starts.device)

    def context() -> AbstractContextManager[None]:
        inside: AbstractContextManager[None] = xla().precision(program.dtype, starts.device)
        return inside

    began = time.perf_counter()
    with context():
        threads = 0 if device.platform != "cpu" else workers(len(starts))
        advance, states = _compile(program, starts, seeds, settings, device, together=not threads)
        compiled = time.perf_counter()
        values, gradients = _probe(advance, states, together=not threads)
        check_starts(joint, starts, values, gradients)
        lanes = [
            _Lane(_at(state, u, g), not threads, 1 if threads else len(starts))
            for state, u, g in zip(states, *((values, gradients) if threads else ([values], [gradients])), strict=True)
        ]
        interrupted = _drive(advance, lanes, settings, max(threads, 1), context)
    if threads:
        note = f"{len(starts)} chains in {threads} thread{'s' if threads > 1 else ''}"
    else:
        note = f"{len(starts)} chains side by side on {device.platform}"
    return _raw(lanes, starts, settings, interrupted, {"compile": compiled - began}, note)


# --- the compiled function --------------------------------------------------------------------------------------------


def _compile(
    program: Program, starts: Tensor, seeds: Sequence[int], settings: Settings, device: Any, *, together: bool
) -> tuple[Callable[..., Any], list[Any]]:
    """The function that takes a chain further, and the chains' first states."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer.hmc import hmc
    from numpyro.infer.util import ParamInfo

    init, sample = hmc(potential_fn_gen=lambda *data: lambda z: program.function(z, *data), algo="NUTS")
    like = np.zeros((), numpy_dtype(program.dtype))

    def first(z: Any, key: Any, data: Any) -> Any:
        return init(
            ParamInfo(z, jnp.zeros((), z.dtype), jnp.zeros_like(z)), settings.warmup, dense_mass=settings.dense,
            target_accept_prob=settings.target_accept, max_tree_depth=settings.max_tree_depth, model_args=data, rng_key=key,
        )  # fmt: skip

    rows = _rows(settings, program.size, len(starts) if together else 1)

    def advance(state: Any, count: Any, data: Any, known: Any) -> Any:
        def body(i: object, carry: Any) -> object:
            state, kept = carry
            after = sample(state, model_args=data)
            if known is not None:
                after = _remember(known, state, after)
            row = {name: getattr(after, name) for name in _ROWS if name != "step_size"}
            row["step_size"] = state.adapt_state.step_size
            return after, {name: kept[name].at[i].set(row[name]) for name in _ROWS}

        shapes = jax.eval_shape(lambda s: sample(s, model_args=data), state)
        empty = {
            name: jnp.zeros((rows, *leaf.shape), leaf.dtype)
            for name in _ROWS
            for leaf in [shapes.adapt_state.step_size if name == "step_size" else getattr(shapes, name)]
        }
        return jax.lax.fori_loop(0, count, body, (state, empty))

    keys = [jax.random.wrap_key_data(jnp.asarray([0, seed], jnp.uint32)) for seed in seeds]
    shape = jax.eval_shape(first, np.zeros(program.size, like.dtype), keys[0], program.constants)
    states = [
        _state(shape, z.cpu().numpy().astype(like.dtype), key, settings) for z, key in zip(starts, keys, strict=True)
    ]
    function = advance
    if together:
        states = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)]
        function = jax.vmap(advance, in_axes=(0, None, None, None))
    known = _moments(settings, program)
    lowered = jax.jit(function).lower(states[0], 0, program.constants, known)
    compiled = _optimised(lowered, program, device)

    def call(state: Any, count: int) -> object:
        return compiled(state, count, program.constants, known)

    return call, states


def _optimised(lowered: Any, program: Program, device: Any) -> Any:
    """Compiles; small programs without XLA's fused loops, which take as long to compile as all the rest."""
    small = max(program.size, program.width) < LARGE
    return xla().compiled(lowered, xla().UNFUSED if device.platform == "cpu" and small else None)


def _rows(settings: Settings, size: int, chains: int) -> int:
    return max(1, min(512, BLOCK_NUMBERS // (size * chains), settings.warmup + settings.draws))


def _state(shape: Any, z: Array, key: Any, settings: Settings) -> Any:
    """NumPyro's first state, without running, and so compiling, what makes it; potential and gradient are to be filled in.

    Everything that is not named here is zero in a first state.
    """
    import jax

    def zero(leaf: Any) -> Any:
        return key if _is_key(leaf) else np.zeros(leaf.shape, leaf.dtype)

    blank = jax.tree.map(zero, shape)
    one = np.ones((), z.dtype)
    inverse, root, root_inverse = _mass(settings, z)
    adapt = replaced(
        blank.adapt_state, step_size=one, inverse_mass_matrix=inverse, mass_matrix_sqrt=root, mass_matrix_sqrt_inv=root_inverse,
        ss_state=(*blank.adapt_state.ss_state[:-1], one * math.log(10)),
    )  # fmt: skip
    return replaced(blank, z=z, trajectory_length=one * 2 * math.pi, adapt_state=adapt)


def _moments(settings: Settings, program: Program) -> object:
    """What is known of the posterior, as NumPyro's running mean, sum of squares and count; ``None`` if nothing is."""
    import jax.numpy as jnp

    if settings.covariance is None or settings.mean is None:
        return None
    kind = numpy_dtype(program.dtype)
    mean, covariance = (value.cpu().numpy().astype(kind) for value in (settings.mean, settings.covariance))
    return mean, covariance * (WARM - 1), np.asarray(WARM, jnp.result_type(int))


def _remember(known: Any, before: Any, after: Any) -> Any:
    """Lets every window of the adaptation begin with what was known before the run, and not with nothing."""
    import jax
    import jax.numpy as jnp

    opened = after.adapt_state.window_idx != before.adapt_state.window_idx
    moments = jax.tree.map(lambda old, new: jnp.where(opened, old, new), known, after.adapt_state.mm_state)
    return replaced(after, adapt_state=replaced(after.adapt_state, mm_state=moments))


def _mass(settings: Settings, z: Array) -> tuple[Array, Array, Array]:
    """The inverse mass matrix, a square root of its inverse, and the inverse of that root."""
    if settings.covariance is None:
        inverse = np.eye(len(z), dtype=z.dtype) if settings.dense else np.ones_like(z)
        return inverse, inverse, inverse
    covariance = settings.covariance.double().cpu().numpy()
    if not settings.dense:
        root = np.sqrt(covariance)
        return covariance.astype(z.dtype), (1 / root).astype(z.dtype), root.astype(z.dtype)
    root_inverse = np.linalg.cholesky(covariance[::-1, ::-1])[::-1, ::-1].T
    return covariance.astype(z.dtype), np.linalg.inv(root_inverse).astype(z.dtype), root_inverse.astype(z.dtype)


def _probe(advance: Callable[..., Any], states: list[Any], *, together: bool) -> tuple[Array, Array]:
    """Potential energy and gradient at the chains' starts.

    Without momentum and step size the first doubling has one leaf, which lies where the chain stands, and turns back. From
    an infinite potential it is always accepted.
    """
    found = []
    for state in states:
        adapt = state.adapt_state
        still = replaced(adapt, step_size=adapt.step_size * 0, mass_matrix_sqrt=adapt.mass_matrix_sqrt * 0)
        after, _ = advance(replaced(state, potential_energy=state.potential_energy + np.inf, adapt_state=still), 1)
        found.append((np.asarray(after.potential_energy), np.asarray(after.z_grad)))
    if together:
        return found[0]
    return np.stack([value for value, _ in found]), np.stack([gradient for _, gradient in found])


def _at(state: object, value: Array, gradient: Array) -> object:
    return replaced(state, potential_energy=value, z_grad=gradient)


# --- the run ----------------------------------------------------------------------------------------------------------


def _drive(
    advance: Callable[..., Any],
    lanes: list[_Lane],
    settings: Settings,
    threads: int,
    context: Callable[[], AbstractContextManager[None]],
) -> bool:
    """Takes all lanes to the end, the one that is furthest behind first; returns whether it was interrupted."""
    total = settings.warmup + settings.draws
    progress = settings.progress
    kept = _Kept(lanes, settings.keeper)

    def block(lane: _Lane) -> tuple[object, dict[str, Array], int]:
        count = min(lane.count, total - lane.done)
        began = time.perf_counter()
        with context():
            state, rows = advance(lane.state, count)
            values = {name: np.asarray(row) if lane.together else np.asarray(row)[None] for name, row in rows.items()}
        pace = count * BLOCK_SECONDS / max(time.perf_counter() - began, 1e-6)
        lane.count = int(min(max(pace, 1), 4 * count, values["num_steps"].shape[1]))
        return state, values, count

    running: dict[Future[Any], _Lane] = {}

    def take(finished: Iterable[Future[Any]]) -> None:
        """Only this thread moves lanes on, so that they are whole whenever it looks at them."""
        for future in finished:
            lane = running.pop(future)
            state, values, count = future.result()
            lane.state = state
            lane.take(values, count, settings.warmup)

    with ExitStack() as stack:
        pending = stack.enter_context(held())
        pool = stack.enter_context(ThreadPoolExecutor(threads, thread_name_prefix="nuts"))
        try:
            while True:
                idle = [lane for lane in lanes if lane.done < total and lane not in running.values()]
                for lane in sorted(idle, key=lambda lane: lane.done)[: threads - len(running)]:
                    running[pool.submit(block, lane)] = lane
                if not running:
                    return False
                finished, _ = wait(running, timeout=BLOCK_SECONDS, return_when=FIRST_COMPLETED)
                take(finished)
                pending.check()
                kept.look()
                done = sum(lane.done * lane.chains for lane in lanes)
                progress.update(done, lambda: _line(lanes, settings))
        except KeyboardInterrupt:
            take(wait(running).done)  # the blocks that run now are finished first
            kept.look(now=True)
            return True


class _Kept:
    """What of the lanes is in checkpoints already."""

    def __init__(self, lanes: list[_Lane], keeper: ChainKeeper | None) -> None:
        self.lanes, self.keeper = lanes, keeper
        saved = None if keeper is None else keeper.begin("numpyro")
        if saved is not None:
            state, chunks = saved
            for lane, one in zip(lanes, state["lanes"], strict=True):
                lane.restore(one)
            for chunk in chunks:
                for lane, rows in zip(lanes, chunk, strict=True):
                    for name, blocks in lane.rows.items():
                        if rows:
                            blocks.append(rows[name])
        self.blocks = self._count()

    def _count(self) -> list[int]:
        return [len(lane.rows["z"]) for lane in self.lanes]

    def look(self, *, now: bool = False) -> None:
        """Writes a checkpoint if one is due."""

        def drawn() -> list[dict[str, Array]] | None:
            if self.blocks == self._count():
                return None
            counts = zip(self.lanes, self.blocks, strict=True)
            return [lane.drawn(start) if len(lane.rows["z"]) > start else {} for lane, start in counts]

        def chains() -> dict[str, object]:
            return {"lanes": [lane.snapshot() for lane in self.lanes]}

        if self.keeper is not None and self.keeper.look("numpyro", chains, drawn, now=now):
            self.blocks = self._count()


def _line(lanes: Sequence[_Lane], settings: Settings) -> str:
    return stage(min(lane.done for lane in lanes) < settings.warmup, sum(lane.divergences for lane in lanes))


def _raw(
    lanes: Sequence[_Lane], starts: Tensor, settings: Settings, interrupted: bool, seconds: dict[str, float], note: str
) -> Raw:
    """The draws that all chains have, under ArviZ's names."""
    kept = max(0, min(lane.done for lane in lanes) - settings.warmup)
    like = numpy_dtype(starts.dtype)
    width = starts.shape[1]

    def rows(name: str) -> Array:
        parts = [np.concatenate(lane.rows[name], axis=1)[:, :kept] for lane in lanes if lane.rows[name]]
        if len(parts) < len(lanes):
            return np.zeros((len(starts), 0, width) if name == "z" else (len(starts), 0), like)
        return np.concatenate(parts)

    steps = rows("num_steps").astype(int)
    depth = depths(steps)
    stats = {
        "diverging": rows("diverging").astype(bool),
        "acceptance_rate": rows("accept_prob").astype(float),
        "step_size": rows("step_size").astype(float),
        "tree_depth": depth,
        "n_steps": steps,
        "energy": rows("energy").astype(float),
        "reached_max_treedepth": depth >= settings.max_tree_depth,
    }
    draws = torch.from_numpy(rows("z").astype(like)).to(starts)
    warmup_steps = np.concatenate([np.broadcast_to(lane.warmup_steps, lane.chains) for lane in lanes]).astype(int)
    potential = rows("potential_energy").astype(float)
    return Raw(draws, stats, warmup_steps, interrupted, potential, seconds, note)
