"""``lvm.compress`` and ``lvm.decompress``: rows of data as a file of the length that their density under a model says."""

from __future__ import annotations

import hashlib
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrolvm._base.errors import ArgumentError, DataError, StoreError
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._check.compress import stack as stacks
from pyrolvm._check.compress.container import SCHEMA, Header, packed, unpacked
from pyrolvm._check.compress.laws import Grid
from pyrolvm._check.compress.programs import Coder, grids
from pyrolvm._check.compress.stack import DryError, Stack, initial_words
from pyrolvm._check.evaluate.held import held_out, some_rows
from pyrolvm._check.evaluate.scoring import Scorer
from pyrolvm._program.code import fingerprint
from pyrolvm._program.problem import Problem
from pyrolvm._program.rows import plate_of_independent_rows
from pyrolvm._results import Fit, Posterior
from pyrolvm._results.draws import rebuild

__all__ = ["Compressed", "compress", "compressed", "decompress", "decompressed"]

BLOCK = 128
"""Rows that are pushed at once, at most."""
FIRST = 8
"""A block is this part of the rows that are on the stack already, so that these have the bits that its latents take to pop."""
LOOKED_AT = 1_024
"""Rows by which grids are chosen."""
FIRST_WORDS = 64


@dataclass(frozen=True)
class Compressed:
    """What compressing came to.

    Attributes:
        blob: the file.
        rows: how many rows.
        dimensions: numbers of a row.
        net_bits: by how much the rows made the stack longer.
        initial_bits: what was on it before, in the file.
        bound_bits: minus log2 of the density that it cannot be below: log p(x) where nothing is latent, or else the bound log p(x, z)
            - log q(z | x) at the latents that were popped.
        seconds: it took, checking it apart.
        check_seconds: popping it again took.
    """

    blob: bytes
    rows: int
    dimensions: int
    net_bits: int
    initial_bits: int
    bound_bits: float
    seconds: float
    check_seconds: float

    @property
    def file_bits(self) -> int:
        """Of the whole file, header and digest included."""
        return 8 * len(self.blob)

    def per_dimension(self, bits: float) -> float:
        """Bits of a number."""
        return bits / (self.rows * self.dimensions)


@verb
@at_the_door
def compress(fit: Posterior, rows: Any, *, plate: str | None = None, check: bool = True) -> bytes:
    r"""Rows of discrete data as few bits, without loss, by a fitted model of them.

        >>> blob = lvm.compress(fit, x_new)
        >>> torch.equal(lvm.decompress(fit, blob), x_new)

    A model is a code: a row of probability p takes :math:`-\log_2 p` bits. Where nothing is latent, each number is coded by its
    distribution given those before it. Rows with latents are coded by bits back: latents are drawn by the bits of the rows before, as
    the guide says, and these bits come back, so that a row takes minus its evidence lower bound,

    .. math:: E_{q(z \mid x)} [\log_2 q(z \mid x) - \log_2 p(x, z)].

    The first latents are drawn by bits that nothing has put there; they are in the file, and told apart by ``pyrolvm compress``.

    Networks run in double precision on one processor, and what they give is rounded to whole frequencies, so that the same release of
    torch on the same kind of processor decodes what another process encoded. Elsewhere a last digit may come out otherwise: then
    :func:`decompress` says so, and never gives other rows.

    Args:
        fit: what :func:`pyrolvm.fit` returned, or what was loaded. Observed are whole numbers of finitely many levels; latents are
            discrete, Gaussian, or a mixture of diagonal Gaussians, and the guide gives them for rows that it has not seen.
        rows: what :func:`pyrolvm.evaluate` takes as data.
        plate: the plate of the rows, where several could be meant.
        check: whether to decode the result before it is returned.

    Returns:
        The file: which model it is of, the bits, and digests of both and of the rows.

    Raises:
        ArgumentError: if the model is none of those, or ``constriction`` is not installed.
        DataError: if rows are not of the model's shape, or a value has no probability.
        GuideError: if the guide has parameters for the rows of the fit, and knows no others.

    References:
        Townsend, Bird, Barber, *Practical lossless compression with latent variables using bits back coding*, ICLR 2019,
        https://arxiv.org/abs/1901.04866;
        Duda, *Asymmetric numeral systems*, https://arxiv.org/abs/1311.2540;
        Bamler, *Understanding entropy coding with asymmetric numeral systems*, https://arxiv.org/abs/2201.01741 (the library)
    """
    return compressed(fit, rows, plate=plate, check=check).blob


def compressed(fit: Posterior, rows: Any, *, plate: str | None = None, check: bool = True) -> Compressed:
    """As :func:`compress`, with the figures."""
    stacks.coder()
    ours = _exact(fit)
    chosen = plate_of_independent_rows(ours.attached, plate)
    argument, site = _observed(ours.attached, chosen)
    data = _rows(fit, rows, chosen, argument)
    started = time.perf_counter()
    with _coding(ours, chosen, argument, site) as coder:
        looked = data[some_rows(LOOKED_AT, len(data))]
        coder.grids = grids(coder.scales(looked))
        blocks = list(_blocks(len(data), latent=bool(ours.attached.latents)))
        begun = FIRST_WORDS if ours.attached.latents else 0
        while True:
            stack = Stack(initial_words(begun), floor=stacks.STATE_WORDS)
            before = stack.bits
            coder.log_p = coder.log_q = 0.0
            try:
                for start, end in blocks:
                    coder.push(stack, data[start:end])
                break
            except DryError:
                begun *= 2
        skipped = max(0, min(stack.lowest, begun) - stacks.STATE_WORDS)
    header = Header(
        schema=SCHEMA, model=_digest(ours), problem=ours.attached.name, rows=len(data), block=BLOCK,
        grids={name: (grid.exponent, grid.half) for name, grid in coder.grids.items()}, skipped=skipped, initial=begun - skipped,
        check=_rows_digest(data), versions=_versions(),
    )  # fmt: skip
    blob = packed(header, stack.words[skipped:])
    done = time.perf_counter()
    if check:
        _opened(ours, blob, plate)
    return Compressed(
        blob=blob, rows=len(data), dimensions=math.prod(data.shape[1:]), net_bits=stack.bits - before,
        initial_bits=32 * (begun - skipped), bound_bits=(coder.log_q - coder.log_p) / math.log(2), seconds=done - started,
        check_seconds=time.perf_counter() - done,
    )  # fmt: skip


@verb
@at_the_door
def decompress(fit: Posterior, blob: bytes, *, plate: str | None = None) -> Tensor:
    """The rows that :func:`compress` was given.

    Args:
        fit: the fit that they were compressed by, or the same one loaded.
        blob: what :func:`compress` returned.
        plate: as there.

    Returns:
        The rows, in the dtype of the fit's data.

    Raises:
        ArgumentError: if ``constriction`` is not installed.
        DataError: if the bytes are none of :func:`compress`, or of another model.
        StoreError: if they are damaged, or this machine computes other last digits than the one that compressed them.
    """
    return decompressed(fit, blob, plate=plate)[1]


def decompressed(fit: Posterior, blob: bytes, *, plate: str | None = None) -> tuple[str, Tensor]:
    """As :func:`decompress`, with the name of the argument that the rows are."""
    stacks.coder()
    name, rows = _opened(_exact(fit), blob, plate)
    problem = fit.attached
    return name, rows.to(device=problem.device, dtype=problem.dtype if rows.is_floating_point() else rows.dtype)


def _opened(ours: Fit, blob: bytes, plate: str | None) -> tuple[str, Tensor]:
    header, words = unpacked(blob)
    mine = _digest(ours)
    if header.model != mine:
        raise DataError(
            f"the rows were compressed by a fit of {header.problem!r} of digest {header.model[:12]}, and this one, of "
            f"{ours.attached.name!r}, has {mine[:12]}. Fix: pass the fit that compressed them."
        )
    chosen = plate_of_independent_rows(ours.attached, plate)
    argument, site = _observed(ours.attached, chosen)
    parts: list[Tensor] = []
    blocks = list(_blocks(header.rows, latent=bool(ours.attached.latents), most=header.block))
    with _coding(ours, chosen, argument, site) as coder:
        coder.grids = {name: Grid(*grid) for name, grid in header.grids.items()}
        stack = Stack(words)
        for start, end in reversed(blocks):
            parts.append(coder.pop(stack, end - start))
    left = initial_words(header.skipped + header.initial)[header.skipped :]
    rows = torch.cat(parts[::-1])
    if not np.array_equal(stack.words, left) or _rows_digest(rows) != header.check:
        raise StoreError(
            f"the rows of {header.problem!r} cannot be decoded here: what comes out is not what was put in. The file is whole, and of "
            f"this fit, so that its networks give other last digits here, by {_versions()}, than where it was made, by "
            f"{header.versions}. Fix: decompress with those versions, on the same kind of processor."
        )
    return argument, rows


def _blocks(rows: int, *, latent: bool, most: int = BLOCK) -> Iterator[tuple[int, int]]:
    """First and last of the rows that are pushed together: few at first, where bits must be there for their latents."""
    start = 0
    while start < rows:
        size = min(most, max(1, start // FIRST)) if latent else most
        yield start, min(rows, start + size)
        start += size


# --- what is coded ----------------------------------------------------------------------------------------------------


def _exact(fit: Posterior) -> Fit:
    """The fit in double precision, on the CPU.

    Raises:
        ArgumentError: if it is no fit, or has lost its guide.
    """
    if not isinstance(fit, Fit):
        raise ArgumentError(f"expected what lvm.fit returns, got a {type(fit).__name__}. Fix: pass a fit.")
    fit.check_density("compression")
    problem = fit.attached.to(dtype=torch.float64, device="cpu")
    if fit.guide is None and problem.latents:
        raise ArgumentError(
            f"{fit.name} was loaded without its guide. Fix: lvm.load(path, problem=problem, guide=the guide function)."
        )
    params = {
        name: value.detach().cpu().to(torch.float64 if value.is_floating_point() else value.dtype)
        for name, value in fit.params.items()
    }
    for name, value in params.items():
        if not bool(torch.isfinite(value).all()):
            raise ArgumentError(
                f"parameter {name!r} of {fit.name} has {int((~torch.isfinite(value)).sum())} values that are not finite, so that "
                "no row has a density. Fix: fit again, with a lower learning_rate=."
            )
    return replace(fit, problem=problem, params=params)


def _observed(problem: Problem, plate: str) -> tuple[str, str]:
    """The argument that holds the rows, and the site that observes it.

    Raises:
        ArgumentError: if rows are more, or other, than what one site observes.
    """
    size = problem.plates[plate].size
    by_row = {
        name: value
        for name, value in problem.arguments.items()
        if isinstance(value, Tensor) and value.dim() and len(value) == size
    }
    if len(problem.observed) == 1 and len(by_row) == 1:
        (site,), (name,) = problem.observed, by_row
        if tuple(by_row[name].shape) == tuple(site.shape):
            return name, site.name
    raise ArgumentError(
        f"rows of {problem.name} are {', '.join(by_row) or 'no argument'}, and it observes "
        f"{', '.join(site.name for site in problem.observed)}. Compressed are rows of one argument that one site observes as it is. "
        "Fix: fit a model of that form."
    )


def _rows(fit: Posterior, rows: Any, plate: str, argument: str) -> Tensor:
    """The rows, in double precision on the CPU, once guide and model have been seen to run on some of them.

    Raises:
        DataError: if they are not of the model's shape.
        GuideError: if the guide does not know them.
    """
    assert isinstance(fit, Fit)
    held = held_out(fit, rows, plate, "rows")
    with held.session(seed=0, params=fit.params):
        guide = None if fit.guide is None or not held.latents else rebuild(fit.attached, fit.guide)
        Scorer(held, plate, guide).check(fit.name, new=True)
    found = held.arguments[argument]
    assert isinstance(found, Tensor)
    return found.detach().cpu().to(torch.float64 if found.is_floating_point() else found.dtype)


@contextmanager
def _coding(ours: Fit, plate: str, argument: str, site: str) -> Iterator[Coder]:
    """What codes rows, among the parameters of the fit."""
    problem = ours.attached
    with problem.session(seed=0, params=ours.params), torch.no_grad():
        guide = None if ours.guide is None or not problem.latents else rebuild(problem, ours.guide)
        yield Coder(problem, guide, plate, argument, site)


# --- digests ----------------------------------------------------------------------------------------------------------


def _digest(fit: Fit) -> str:
    """Of the model's code and data, the guide, and all parameters."""
    problem, found = fit.attached, hashlib.sha256()
    recipe = fit.guide if problem.latents else None
    guide = "" if recipe is None else f"{recipe} {fingerprint(recipe.construct)}"
    found.update(f"{problem.name} {fingerprint(problem.program)} {problem.fingerprint} {guide}".encode())
    for name, value in sorted(fit.params.items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def _rows_digest(rows: Tensor) -> str:
    whole = rows.to(torch.int64).numpy().astype("<i8")
    return hashlib.sha256(f"{whole.shape}".encode() + whole.tobytes()).hexdigest()[:32]


def _versions() -> str:
    return f"torch {torch.__version__} on {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
