r"""Importance weights of every row of the data, in memory-bounded chunks.

.. math:: w_{ns} = \frac{p(x_n, z_{ns})}{q(z_{ns} \mid x_n)}, \qquad
    \log p(x_n) \approx \log \frac1K \sum_{s=1}^K w_{ns}, \quad z_{ns} \sim q(\cdot \mid x_n).

Guide and model run together for a few rows and many draws at a time. The run is recorded once as a graph of tensor operations, so
that Pyro's handlers cost nothing, and chunks are as small as a processor's cache, where torch runs networks fastest.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrolvm._base import randomness, runtime
from pyrolvm._base.errors import CaptureError, GuideError, ProblemError
from pyrolvm._base.passing import passed_over
from pyrolvm._capture import Captured, capture
from pyrolvm._capture.vmap import vmapped
from pyrolvm._program.agreement import guide_sites
from pyrolvm._program.batching import slice_rows
from pyrolvm._program.density import Joint
from pyrolvm._program.problem import Problem
from pyrolvm._program.sites import is_deterministic, is_random

__all__ = ["CHUNK", "Block", "Scorer", "UnknownRowsError", "plan"]

Array = NDArray[np.float64]

CHUNK = 400_000
"""Numbers of one kind, draws times rows times the width of a row, that a chunk holds at once on a processor."""

CHUNK_GPU = 40_000_000
"""The same on a GPU."""

DRAWS_AT_ONCE = 100
"""Draws of a chunk, at most: the encoder runs once for all of them."""

COMPILED = 4e9
"""Numbers in all, draws times rows times width, from which on compiling the graph pays: some seconds of it, for a third of the time."""

_BLOCK = 4_000_000
"""Log weights that are held at once: those of all draws of some rows."""


@dataclass(frozen=True)
class Block:
    """What all draws say of some rows.

    Attributes:
        rows: which, shape ``(rows,)``.
        log_weight: shape ``(draws, rows)``; a single draw where the density is exact.
        terms: means over draws by name, each of shape ``(rows,)``: ``log_likelihood``, and ``kl_<site>``, the mean of
            log q - log p of a latent site.
        means: the posterior mean of each continuous latent site, ``(rows, units)``.
        variances: the guide's variance of it, ``(rows, units)``.
    """

    rows: Tensor
    log_weight: Array
    terms: dict[str, Array]
    means: dict[str, Array]
    variances: dict[str, Array]


@dataclass(frozen=True)
class Plan:
    """How the work is cut: ``draws`` of ``rows`` rows in a chunk, ``rows_held`` rows whose weights are held together."""

    draws: int
    rows: int
    rows_held: int


def plan(width: int, draws: int, rows: int, room: int) -> Plan:
    """Cuts the work so that no array of a chunk has more than ``room`` numbers, but for one draw of one row."""
    at_once = max(1, min(DRAWS_AT_ONCE, draws, room // max(width, 1)))
    some = max(1, min(rows, room // max(at_once * width, 1)))
    held = max(some, min(rows, _BLOCK // draws) // some * some)
    return Plan(at_once, some, held)


class UnknownRowsError(GuideError):
    """A guide has parameters for the rows of its fit, and the rows are others."""


class Scorer:
    """The weights of rows; to be used inside the session of a problem whose parameters are the fitted ones.

    Args:
        problem: the data.
        plate: the plate whose rows are data points.
        guide: the fitted guide; ``None`` where nothing is latent.
        room: numbers that a chunk may hold of one kind; by default what suits the device.

    Attributes:
        engine: what runs: ``"captured"`` (a graph, draws as lanes), ``"repeated"`` (a graph, draws as rows), ``"single"`` (a graph of
            one draw) or ``"pyro"`` (no graph).
        reason: why not a graph, where it is none.
        compiled: whether torch compiled the graph.
        largest: the most draws times rows that ran at once.
    """

    def __init__(
        self, problem: Problem, plate: str, guide: Callable[..., object] | None, *, room: int | None = None
    ) -> None:
        self.problem, self.plate, self.guide = problem, problem.plates[plate], guide
        self.room = room or (CHUNK_GPU if problem.device.type == "cuda" else CHUNK)
        self.continuous = [site.name for site in problem.continuous]
        self.engine, self.reason, self.largest = "captured", "", 0
        self.compiled = self._large = self._by_place = False
        self._runs: dict[tuple[int, int], Callable[[Tensor], dict[str, Tensor]]] = {}

    @property
    def exact(self) -> bool:
        """Whether nothing is latent, so that one run gives log p(x)."""
        return not self.problem.latents

    @property
    def width(self) -> int:
        """Numbers that a row has, data and latents, or the widest layer that its decoder is known to have."""
        sites = (*self.problem.observed, *self.problem.latents)
        seen = sum(site.numel for site in sites) / max(self.plate.size, 1)
        layers = [entry.shape[0] for entry in self.problem.parameters.values() if len(entry.shape) == 2]
        return max(1, math.ceil(max(seen, *layers, 1)))

    def blocks(self, rows: Tensor, draws: int, told: Callable[[int], None] = lambda _: None) -> Iterator[Block]:
        """All draws of the rows, some rows at a time; ``told`` hears of the rows that are done."""
        draws = 1 if self.exact else draws
        self._large = float(len(rows)) * draws * self.width > COMPILED
        cut = plan(self.width, draws, self._at_once(rows), self.room)
        done = 0
        for start in range(0, len(rows), cut.rows_held):
            pieces = [self._some(piece, draws, cut) for piece in rows[start : start + cut.rows_held].split(cut.rows)]
            block = pieces[0] if len(pieces) == 1 else _together(pieces)
            done += len(block.rows)
            told(done)
            yield block

    def _at_once(self, rows: Tensor) -> int:
        """Rows that may run at once: Pyro takes as many as the plate has for all of it, in its own order."""
        whole = len(rows) == self.plate.size and torch.equal(rows, torch.arange(len(rows), device=rows.device))
        return len(rows) if whole or not self._by_place else max(1, min(len(rows), self.plate.size - 1))

    def _some(self, rows: Tensor, draws: int, cut: Plan) -> Block:
        """A few rows: they are padded to the size of the others, so that one graph serves all."""
        padded = torch.cat([rows, rows[:1].expand(cut.rows - len(rows))]) if len(rows) < cut.rows else rows
        weights: list[Tensor] = []
        sums: dict[str, Tensor] = {}
        left = draws
        while left:
            now = min(cut.draws, left)
            found = self._run(padded, now)
            weights.append(found.pop("log_weight").double())
            for name, value in found.items():
                sums[name] = sums[name] + value.double() if name in sums else value.double()
            left -= now
        count = len(rows)
        values = {name: (value[:count] / draws).cpu().numpy() for name, value in sums.items()}
        means, squares = (
            {name.removeprefix(key): values.pop(name) for name in list(values) if name.startswith(key)}
            for key in ("mean/", "square/")
        )
        variances = {name: np.maximum(squares[name] - means[name] ** 2, 0.0) for name in means}
        return Block(rows, torch.cat(weights)[:, :count].cpu().numpy(), values, means, variances)

    # --- one run ------------------------------------------------------------------------------------------------------

    def one(self, rows: Tensor) -> dict[str, Tensor]:
        """One draw of the latents of those rows: its log weight, and the terms that it is made of."""
        batch = slice_rows(self.problem, self.plate, rows)
        draw: dict[str, Tensor] = {}
        log_q: dict[str, Tensor] = {}
        if self.guide is not None and not self.exact:
            with batch.active():
                trace = poutine.trace(self.guide).get_trace(*batch.args, **batch.kwargs)
            trace.compute_log_prob()
            draw = {name: node["value"] for name, node in guide_sites(trace).items()}
            for name, node in trace.nodes.items():
                if is_random(node) and not is_deterministic(node):
                    term = scale_and_mask(node["unscaled_log_prob"], 1.0, node["mask"])
                    log_q[name] = self._by_row(term, rows, f"the guide's site {name!r}", GuideError)
        found = Joint(self.problem, batch).terms(draw)
        prior, seen = {}, []
        for name, term in found.items():
            group, _, site = name.partition("/")
            if group == "log_prior":
                prior[site] = self._by_row(term, rows, f"site {site!r}", ProblemError)
            elif group == "log_likelihood":
                seen.append(self._by_row(term, rows, f"site {site!r}", ProblemError))
        if not seen:
            raise ProblemError(
                f"{self.problem.name} sums out discrete latents that tie rows together, so no row has a likelihood of its own. "
                "Fix: put the discrete site into the plate of the data."
            )
        likelihood = torch.stack(seen).sum(0)
        out = {"log_likelihood": likelihood}
        out |= {f"kl_{name}": log_q[name] - prior[name] for name in prior if name in log_q}
        out["log_weight"] = likelihood + _sum(prior, likelihood) - _sum(log_q, likelihood)
        for name in self.continuous:
            units = self._units(draw[name], name, len(rows))
            out |= {f"mean/{name}": units, f"square/{name}": units.square()}
        return out

    def _by_row(self, term: Tensor, rows: Tensor, what: str, error: type[Exception]) -> Tensor:
        dim = self.plate.dim
        assert dim is not None
        if term.dim() < -dim or term.shape[dim] != len(rows):
            raise error(
                f"{what} has a log density of shape {tuple(term.shape)} for {len(rows)} rows of plate {self.plate.name!r}, so that it "
                f"does not belong to single rows. Fix: sample it inside `with pyro.plate({self.plate.name!r}, len(x)):`."
            )
        return term.movedim(dim, 0).reshape(len(rows), -1).sum(1)

    def _units(self, value: Tensor, name: str, rows: int) -> Tensor:
        dim = self.plate.dim
        assert dim is not None
        return value.movedim(dim - self.problem.sites[name].event_dim, 0).reshape(rows, -1)

    # --- many runs ----------------------------------------------------------------------------------------------------

    def _run(self, rows: Tensor, draws: int) -> dict[str, Tensor]:
        key = (len(rows), draws)
        self.largest = max(self.largest, len(rows) * draws)
        with torch.no_grad():
            if key not in self._runs:
                if not self._runs:
                    self.one(rows)  # learnable parameters come into being in a plain run
                self._runs[key] = self._compile(rows, draws)
            return self._runs[key](rows)

    def _compile(self, rows: Tensor, draws: int) -> Callable[[Tensor], dict[str, Tensor]]:
        """What gives so many draws of so many rows: the first that runs of a graph over lanes, a graph of repeated rows, and Pyro.

        A guide with parameters for each row takes repeated rows for all rows of a plate, so that its draws run one by one.
        """
        lanes = torch.zeros(draws, dtype=self.problem.dtype, device=self.problem.device)

        def laned(rows: Tensor) -> dict[str, Tensor]:
            return _summed(vmapped(lambda _: self.one(rows))(lanes))

        def repeated(rows: Tensor) -> dict[str, Tensor]:
            found = self.one(rows.repeat(draws))
            return _summed({name: value.reshape(draws, len(rows), *value.shape[1:]) for name, value in found.items()})

        def one_by_one(single: Callable[[Tensor], dict[str, Tensor]]) -> Callable[[Tensor], dict[str, Tensor]]:
            def run(rows: Tensor) -> dict[str, Tensor]:
                found = [single(rows) for _ in range(draws)]
                return _summed({name: torch.stack([one[name] for one in found]) for name in found[0]})

            return run

        if self.engine == "captured" and draws > 1:
            try:
                return self._captured(laned, rows)
            except CaptureError:
                self.engine = "single" if self._by_place else "repeated"
        try:
            if self.engine == "single":
                return one_by_one(self._captured(self.one, rows))
            if self.engine != "pyro":
                return self._captured(repeated, rows)
        except CaptureError as error:
            self.engine, self.reason = "pyro", str(error)
        return one_by_one(self.one) if self._by_place else repeated

    def _captured(
        self, program: Callable[[Tensor], dict[str, Tensor]], rows: Tensor
    ) -> Callable[[Tensor], dict[str, Tensor]]:
        """The program as a graph, once the graph has been seen to give what the program gives, on other rows.

        Raises:
            CaptureError: if it has no graph.
        """
        other = rows.roll(1) if len(rows) > 1 else (rows + 1) % self.plate.size
        try:
            graph = capture(program, rows, what=f"model {self.problem.name!r} with its guide")
            results = []
            for run in (program, graph):
                with randomness.random_state(77, self.problem.device):
                    results.append(run(other))
        except CaptureError:
            raise
        except Exception as error:  # whatever vmap cannot run
            raise CaptureError(f"{type(error).__name__}: {error}".split("\n")[0]) from error
        for name, value in results[0].items():
            if not torch.allclose(value, results[1][name], rtol=1e-3, atol=1e-3, equal_nan=True):
                raise CaptureError(f"the graph of {self.problem.name!r} is not the program on other rows")
        return self._fused(graph, rows) if self._large else graph

    def _fused(self, graph: Captured, rows: Tensor) -> Callable[[Tensor], dict[str, Tensor]]:
        """The graph compiled by torch, or as it is where there is no compiler."""
        compiled = torch.compile(graph.module, fullgraph=True, dynamic=False)

        def run(rows: Tensor) -> dict[str, Tensor]:
            return graph.unflatten(compiled(rows, *graph.constants))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run(rows)
        except Exception:
            passed_over("no C++ compiler, most of all")
            return graph
        self.compiled = True
        return run

    # --- what is refused ----------------------------------------------------------------------------------------------

    def check(self, name: str, *, new: bool) -> None:
        """Runs a few rows by stock Pyro before the work starts.

        Args:
            name: the guide's name, for messages.
            new: whether the rows are others than the fit's, so that a guide with parameters for each row cannot know them.

        Raises:
            GuideError: if the guide does not run on these rows, or lacks a site.
            UnknownRowsError: if it goes by a row's number instead of its data, and the rows are others.
        """
        rows = torch.arange(min(2, self.plate.size), device=self.problem.device)
        fix = 'Fix: use an encoder, such as guide="amortized", or evaluate the rows of the fit (data=None).'
        try:
            with torch.no_grad(), randomness.random_state(0, self.problem.device):
                found = self.one(rows)
        except (GuideError, ProblemError):
            raise
        except Exception as error:
            raise GuideError(
                f"guide {name!r} does not run on these rows of {self.problem.name}: {type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else error!r}. {fix}"
            ) from error
        if found["log_weight"].shape != (len(rows),):
            raise GuideError(
                f"guide {name!r} gives {tuple(found['log_weight'].shape)} weights for {len(rows)} rows. {fix}"
            )
        self._by_place = self.guide is not None and not self.exact and self.plate.size > 1 and self._by_number()
        if new and self._by_place:
            raise UnknownRowsError(
                f"guide {name!r} has parameters for each row of the fit's data and knows no others: what it says of a row depends on "
                f"the row's number. {fix}"
            )

    def _by_number(self) -> bool:
        """Whether the same data under another row number are given other latents."""
        first = torch.zeros(1, dtype=torch.long, device=self.problem.device)
        batch = slice_rows(self.problem, self.plate, first)
        drawn = []
        for number in (first, first + 1):
            policy = {**batch.plates, self.plate.name: runtime.Subsample(self.plate.size, number)}
            assert self.guide is not None
            with runtime.plates(policy), torch.no_grad(), randomness.random_state(5, self.problem.device):
                trace = poutine.trace(self.guide).get_trace(*batch.args, **batch.kwargs)
            drawn.append([node["value"] for node in guide_sites(trace).values()])
        return any(not torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True) for a, b in zip(*drawn, strict=True))


def _sum(terms: dict[str, Tensor], like: Tensor) -> Tensor:
    return torch.stack(list(terms.values())).sum(0) if terms else torch.zeros_like(like)


def _summed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Log weights as they are, all else summed over draws."""
    return {name: value if name == "log_weight" else value.sum(0) for name, value in found.items()}


def _together(pieces: list[Block]) -> Block:
    return Block(
        torch.cat([piece.rows for piece in pieces]),
        np.concatenate([piece.log_weight for piece in pieces], axis=1),
        {name: np.concatenate([piece.terms[name] for piece in pieces]) for name in pieces[0].terms},
        {name: np.concatenate([piece.means[name] for piece in pieces]) for name in pieces[0].means},
        {name: np.concatenate([piece.variances[name] for piece in pieces]) for name in pieces[0].variances},
    )
