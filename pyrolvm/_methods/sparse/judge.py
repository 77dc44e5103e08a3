"""What the weights of shared unknowns and of blocks tell of a posterior."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyrolvm._base.importance import HEAVY_VARIANCE, khat_threshold
from pyrolvm._base.verdict import Reason, Verdict
from pyrolvm._methods.sparse.blocks import Blocks
from pyrolvm._methods.sparse.drawing import BlockDraws
from pyrolvm._methods.sparse.fields.weighing import FieldDraws
from pyrolvm._methods.sparse.fine import Found
from pyrolvm._methods.sparse.rows import RowDraws

__all__ = ["judge", "judge_field", "judge_modes", "judge_rows"]

MEETS = 1e-9
"""By how much, of its size, a block's density may change when others are moved: rounding."""

ROUGH = 0.2
"""Nats from draw to draw that may be unknown without a word."""

ROUGH_ROWS = 0.06
"""The same where it may all be in one direction, and move a mean by as many sds."""

NAMED = 3
"""Sites that are named, of those whose unknowns are coupled: a program in a loop has one for each step."""

STUCK = 0.1
"""The share of a window's moves that must be taken for its law to be near its Gaussian."""

NEXT = "Sample with lvm.nuts."


def judge(layers: Sequence[Blocks], drawn: Sequence[BlockDraws], found: Found, meets: float) -> Verdict:
    """The verdict on what was found, besides that of the weights.

    Args:
        layers: the blocks, those around them, and so on.
        drawn: their draws.
        found: the weighed draws of the shared unknowns.
        meets: by how much of its size a block's density changed when others were moved.
    """
    reasons = [
        reason for blocks, draws in zip(layers, drawn, strict=True) if blocks.count for reason in _blocks(blocks, draws)
    ]
    reasons += [*_tails(found), *_left(found), *_apart(meets)]
    return Verdict.of(reasons, [NEXT] if any(reason.status != "trusted" for reason in reasons) else [])


def judge_field(drawn: FieldDraws, sites: Sequence[str], meets: float) -> Verdict:
    """The verdict on unknowns that are coupled to neighbours, besides that of the weights, which are of all unknowns together.

    Args:
        drawn: the draws.
        sites: whose unknowns are coupled.
        meets: by how much of its size a slope changed when only unknowns were moved that it should not meet.
    """
    reasons = [*_windows(drawn, sites), *_drifts(drawn), *_coupled(meets)]
    return Verdict.of(reasons, [NEXT] if any(reason.status != "trusted" for reason in reasons) else [])


def judge_rows(drawn: RowDraws, total: int) -> Verdict:
    """The verdict on unknowns that all rows share, besides that of the weights.

    Args:
        drawn: the draws.
        total: how many rows there are.
    """
    reasons = list(_rows(drawn, total))
    return Verdict.of(reasons, [NEXT] if any(reason.status != "trusted" for reason in reasons) else [])


def _rows(drawn: RowDraws, total: int) -> Iterator[Reason]:
    figures = {"density_left": drawn.left, "rows": float(drawn.some)}
    if not drawn.left <= ROUGH_ROWS:
        text = (
            f"Log densities, by {drawn.some:,} of {total:,} rows, are not known from draw to draw but for {drawn.left:.2g} nats "
            f"(bound {ROUGH_ROWS})."
        )
        yield Reason("doubtful", text, figures)
    elif drawn.some < total:
        text = (
            f"Log densities of draws are by {drawn.some:,} of {total:,} rows and by mode and curvature of all, which leaves "
            f"{drawn.left:.2g} nats, measured over all rows."
        )
        yield Reason("trusted", text, figures)


def _tails(found: Found) -> Iterator[Reason]:
    """Yields that a variance has a heavier tail than its draws reach."""
    khat = found.pool.tails
    if khat > HEAVY_VARIANCE:
        text = (
            f"The sd of a shared unknown is larger than its draws tell: k-hat of its variance is {khat:.2f}, above {HEAVY_VARIANCE}. "
            "Look at quantiles."
        )
        yield Reason("doubtful", text, {"largest quantity khat": khat})


def _windows(drawn: FieldDraws, sites: Sequence[str]) -> Iterator[Reason]:
    annealing, count = drawn.annealing, drawn.local.shape[1]
    named = ", ".join(f"{name!r}" for name in sites[:NAMED]) + (", ..." if len(sites) > NAMED else "")
    figures = {"field_spread": annealing.spread, "field_steps": float(annealing.steps)}
    if not annealing.steps:
        yield Reason("trusted", f"Given what is shared, {count:,} coupled unknowns ({named}) are Gaussian.", figures)
        return
    least = float(drawn.taken.min())
    figures["field_taken"] = least
    text = (
        f"{count:,} coupled unknowns ({named}) differ from a Gaussian by {annealing.spread**0.5:.2g} nats (sd), which "
        f"{annealing.steps} steps bring in; of the moves of each of {len(drawn.taken)} windows at least {least:.0%} were taken"
    )
    yield Reason("trusted" if least >= STUCK else "doubtful", f"{text}.", figures)


def _drifts(drawn: FieldDraws) -> Iterator[Reason]:
    if not drawn.drift <= ROUGH:
        text = (
            f"Parts of the density that several windows share are not of the second degree: weights are off by up to {drawn.drift:.2g} "
            f"nats (bound {ROUGH})."
        )
        yield Reason("doubtful", text, {"field_drift": drawn.drift})


def _coupled(meets: float) -> Iterator[Reason]:
    if not meets <= MEETS:
        text = f"A slope changes by {meets:.2g} of its size when only unknowns are moved that it should not meet: the pattern is wrong."
        yield Reason("failed", text, {"meets": meets})


def _blocks(blocks: Blocks, drawn: BlockDraws) -> Iterator[Reason]:
    sites = ", ".join(f"{name!r}" for name in blocks.sites)
    bound = khat_threshold(max(drawn.candidates * len(drawn.values), 1))
    bad = drawn.which[drawn.khats > bound]
    worst = float(drawn.khats.max()) if len(drawn.khats) else 0.0
    least = float(drawn.share.min())
    figures = {"block_khat": worst, "block_share": least}
    if len(bad):
        named = ", ".join(str(block) for block in bad[:5])
        text = f"All but {len(bad)} of {blocks.count:,} blocks ({sites}) have weights with a tail that is reliable; not {named}"
        yield Reason("doubtful", f"{text}{', ...' if len(bad) > 5 else ''} (k-hat up to {worst:.2f}).", figures)
    else:
        text = f"Of each of {blocks.count:,} blocks ({sites}), at least {least:.0%} of the draws are effective."
        yield Reason("trusted", text, figures)


def _left(found: Found) -> Iterator[Reason]:
    figures = {"density_left": found.left}
    how = f"a polynomial fitted at {found.fitted} points" if found.fitted else found.rule.name
    if not found.left <= ROUGH:
        text = (
            f"Log densities, by {how}, are not known from draw to draw but for {found.left:.2g} nats (bound {ROUGH})."
        )
        yield Reason("doubtful", text, figures)
    elif found.fitted:
        yield Reason(
            "trusted", f"Log densities of draws are by {how}, which it leaves by {found.left:.2g} nats.", figures
        )


def _apart(meets: float) -> Iterator[Reason]:
    if not meets <= MEETS:
        text = (
            f"The density of a block changes by {meets:.2g} of its size when others move: blocks are not independent."
        )
        yield Reason("failed", text, {"meets": meets})


def judge_modes(places: int) -> Verdict:
    """The verdict on ascents that ended at so many places that are no copies of each other."""
    if places <= 1:
        return Verdict.of([])
    text = f"Ascents ended at {places} places apart: draws are of one mode of several."
    return Verdict.of([Reason("doubtful", text, {"modes": float(places)})], [NEXT])
