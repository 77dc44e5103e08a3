"""``lvm.infer``: methods from cheap to dear, up to the first whose verdict is "trusted"; where there is an exact answer, that."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch

from pyrolvm import _runs as runs
from pyrolvm._base.budget import Spent, finishing, left, spent, within
from pyrolvm._base.errors import (
    FitError,
    ProblemError,
    StoreError,
    checked_seed,
    positive_float,
    positive_int,
)
from pyrolvm._base.explain import at_the_door
from pyrolvm._base.habits import verb
from pyrolvm._base.passing import passed_over
from pyrolvm._base.verdict import Reason
from pyrolvm._methods.exact import exact
from pyrolvm._methods.fit import fit
from pyrolvm._methods.infer.correction import correct
from pyrolvm._methods.infer.orbits import complete
from pyrolvm._methods.infer.order import chains_before, in_order, row_of
from pyrolvm._methods.infer.restarts import with_restarts
from pyrolvm._methods.nuts import nuts
from pyrolvm._methods.table import Method, result_type
from pyrolvm._program.code import fingerprint
from pyrolvm._program.density import with_digits
from pyrolvm._program.problem import Problem, check_problem
from pyrolvm._results import Fit, Posterior, store
from pyrolvm._results.base import LADDER
from pyrolvm._results.build import passed_on
from pyrolvm.family.choice import resolve
from pyrolvm.family.registry import guide

__all__ = ["Rung", "infer"]

RAW_DRAWS = 1_000
"""Draws of a guide that are kept beside the corrected ones."""

QUICK, QUICK_SECONDS, QUICK_DRAWS = "mean_field, for a second", 1.0, 200
"""What is fitted where the seconds of a budget are over and no method has a result."""

WARMUP, CHAIN_DRAWS = 1_000, 1_000
"""Transitions of each of four chains."""

CAREFUL = (0.8, 0.95, 0.99)
"""Acceptance rates that NUTS is asked for in turn, as long as it diverges."""

LONGER, LONGER_SECONDS = 4, 10.0
"""How many times the transitions nearly mixed chains are given, where those of one take at most so many seconds of an ordinary
processor."""

NEARLY = {"rhat": 1.05, "ess": 40.0}
"""The R-hat up to which, and the effective draws of each chain from which on, more transitions are all that chains lack."""

RESTART = 1_000
"""Between the seeds of restarts."""

_ORDER = {"trusted": 0, "doubtful": 1, "failed": 2}


@dataclass(frozen=True)
class Rung:
    """One method that was tried.

    Attributes:
        method: its name.
        status: its verdict, or ``"error"``.
        khat: the Pareto k of its importance weights; ``None`` for MCMC and exact posteriors.
        elbo: the ELBO; ``None`` for the same.
        evaluations: densities and gradients that it took, where it counts them.
        seconds: what it took.
        why: what its verdict says, or the error.
    """

    method: str
    status: str
    khat: float | None
    elbo: float | None
    evaluations: int | None
    seconds: float
    why: str


@dataclass(frozen=True)
class _Climb:
    """What a ladder is climbed for.

    Attributes:
        problem: the problem.
        draws: how many draws are asked for.
        restarts: how many restarts.
        seed: the seed.
        progress: how it is shown.
        run: the run in its folder, where there is one: each method is a part of it.
        stages: how the names of its parts begin.
        begun: the parts so far.
    """

    problem: Problem
    draws: int | None
    restarts: int
    seed: int
    progress: Any
    run: runs.Run | None = None
    stages: str = ""
    begun: list[str] = field(default_factory=list)

    def kept(self, what: str) -> dict[str, Any]:
        """Arguments by which the next method keeps what it reaches, or uses what it has reached before."""
        if self.run is None:
            return {}
        self.begun.append(what)
        asked = self.run.stage(f"{self.stages}{len(self.begun)}-{what}")
        return {"out": asked.out, "resume": asked.resume, "checkpoint_every": asked.every}


@verb
@at_the_door
def infer(
    problem: Problem,
    *,
    methods: str | Sequence[object] = "auto",
    budget: float | None = None,
    draws: int | None = None,
    restarts: int = 0,
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    seed: int = 0,
    progress: bool | Callable[[int, int, str], None] = True,
    out: str | Path | None = None,
    resume: bool | str = False,
    overwrite: bool = False,
    checkpoint_every: float | None = None,
) -> Posterior:
    """The posterior by the cheapest method that can be trusted.

        >>> posterior = lvm.infer(problem, seed=0)
        >>> print(posterior.verdict)  # why it can be trusted, or what to do
        >>> posterior.summary()

    Where the posterior has an exact form (:func:`pyrolvm.exact`), that is the answer. Otherwise methods are tried from cheap to
    dear, each variational one with its draws corrected by importance weights, until a verdict is
    "trusted". If none is, the best of them is returned, with its own verdict. ``result.ladder`` says what was tried and why it went on.

    Args:
        problem: a model with its data.
        methods: what to try: ``"auto"``, the exact posterior if there is one, else, where unknowns, rows or members of plates are
            many, what is independent or coupled to neighbours integrated out (:func:`pyrolvm.sparse`), then the guides that suit
            the size of the problem, then NUTS started from the best of them, before a flow where its gradients in C are quicker than a
            flow's steps, and before any guide of more than 1,000 unknowns where there is no budget, then methods that say so (the
            field ``rung`` of the table of methods); ``"vi"``, the guides alone; or a
            list of guides (names, recipes, Pyro guides) and of names of other methods (``"exact"``, ``"nuts"``, ...), in order.
        budget: the seconds that it may take. A method that runs then ends as at an interrupt, with the steps or draws that it has,
            and is judged by them; no other is begun. What runs in one piece, such as a compilation, and the making of the result
            may take some seconds more.
        draws: posterior draws to keep; by default 8,000 (4,000 where they are exact, 2,000 where members are integrated out), fewer
            where they would fill the memory, and 1,000 of each of 4 chains; 4,000 of each where 1,000 were nearly enough for R-hat
            and ESS, and quickly drawn.
        restarts: how often to run a guide that is trusted again; these runs, with other seeds, must find the same means and sds for
            it to stay so. Weights cannot see a mode that no draw reached; another start may.
        device: where to run, as in :func:`pyrolvm.fit`.
        dtype: a floating dtype to run in; by default the data's, and float64 where that turns out to have too few digits.
        seed: the same seed gives the same result.
        progress: whether to show bars; or a function of ``(done, total, text)``.
        out: a folder to save the result in, and on the way what each method has reached.
        resume: with ``out``: return the finished result that is there, or go on with the run, if it is of the same problem, options,
            seed and versions: methods that were done are not run again. ``"any-version"`` goes on under other versions as well.
        overwrite: with ``out``: replace what is there, which stays in force until this run is finished.
        checkpoint_every: seconds between checkpoints of a method, as in :func:`pyrolvm.fit`.

    Raises:
        ArgumentError: if an argument is out of range.
        ProblemError: if the model has no latents.
        FitError: if every method ends in an error; the message has all of them.
        StoreError: if ``out`` holds something else, or another process writes to it.
    """
    given = dict(locals())
    check_problem(problem)
    asked = runs.order(out, resume, overwrite, checkpoint_every)
    if not problem.latents:
        raise ProblemError(
            f"{problem.name} has no latent site, so there is no posterior to infer. Fix: use lvm.fit, which is then maximum "
            "likelihood of its parameters."
        )
    seed = checked_seed(seed)
    if budget is not None:
        positive_float("budget", budget)
    if draws is not None:
        positive_int("draws", draws, minimum=2)
    restarts = positive_int("restarts", restarts, minimum=0)
    chosen = in_order(methods, problem)
    problem = problem.to(dtype=dtype, device=None if str(device) == "auto" else device)
    problem = problem if dtype is not None else with_digits(problem)

    def work(run: runs.Run | None) -> Posterior:
        climb = _Climb(problem, draws, restarts, seed, progress, run)
        with within(budget):
            result = _found(climb, methods, chosen)
            if dtype is None and "precision" in result.verdict.figures and not spent():
                wide = _Climb(problem.to(dtype=torch.float64), draws, restarts, seed, progress, run, stages="double-")
                result = _found(wide, methods, chosen)
        return result

    said: dict[str, Any] = {"methods": [_described(method, problem) for method in chosen], "asked dtype": dtype}
    return cast("Posterior", store.keep(asked, infer, given, work, problem, kind=None, kinds=result_type, **said))


def _described(method: object, problem: Problem) -> str:
    """A method as a run's identity holds it."""
    if row_of(method) is not None:
        return str(method)
    recipe = resolve(method, problem)
    return f"{recipe} {fingerprint(recipe.construct)}"


def _found(climb: _Climb, methods: str | Sequence[object], chosen: list[object]) -> Posterior:
    return _exactly(climb, methods) or _climb(climb, chosen, free=isinstance(methods, str))


def _exactly(climb: _Climb, methods: object) -> Posterior | None:
    """The exact posterior where the methods are left to us and there is one; parameters without a prior have to be fitted first."""
    if not isinstance(methods, str) or methods != "auto" or climb.problem.parameters:
        return None
    started = time.perf_counter()
    try:
        result = exact(climb.problem, draws=climb.draws, seed=climb.seed, progress=climb.progress)
    except Exception:
        passed_over("not exact, or whatever else stops it: the next may well run")
        return None
    return _recorded(result, [_rung("exact", result, started)])


def _climb(climb: _Climb, methods: list[object], *, free: bool = False) -> Posterior:
    problem = climb.problem
    found: list[Posterior] = []
    rungs: list[Rung] = []
    waiting = list(methods)
    while waiting and not (rungs and spent()):
        method = waiting.pop(1 if free and chains_before(problem, waiting) else 0)
        for result, rung in _tried(climb, method, found):
            rungs.append(rung)
            if result is not None:
                found.append(result)
        if found and found[-1].verdict.trusted:
            break
    if not found and spent():
        result, rung = _attempt(QUICK, lambda: _quickly(climb))
        rungs.append(rung)
        found = [] if result is None else [result]
    if not found and methods and methods[0] == "student":  # whose algorithm asks more of a model than steps do
        result, rung = _attempt("mean_field", lambda: _variational(climb, "mean_field"))
        rungs.append(rung)
        found = [] if result is None else [result]
    if not found:
        listing = "; ".join(f"{rung.method}: {rung.why}" for rung in rungs)
        raise FitError(f"no method could be run on {problem.name!r}. {listing}")
    best = min(found, key=_rank)
    if not isinstance(best, Fit) or best.verdict.status != "trusted":
        # Chains that are doubtful for a few divergences are still better evidence than weights that are not reliable.
        chains = [result for result in found if not isinstance(result, Fit)]
        if chains and best.verdict.status == "doubtful" and chains[-1].verdict.status == "doubtful":
            best = chains[-1]
    return _recorded(best, rungs)


def _recorded(result: Posterior, rungs: list[Rung]) -> Posterior:
    result.data.attrs[LADDER] = json.dumps([_plain(asdict(rung)) for rung in rungs])
    result.__dict__.pop("verdict", None)  # whose advice depends on what was tried
    return result


def _tried(climb: _Climb, method: object, found: list[Posterior]) -> Iterator[tuple[Posterior | None, Rung]]:
    """What a method gives, each attempt of it."""
    row = row_of(method)
    if row is None:
        yield _attempt(str(getattr(method, "__name__", method)), lambda: _confirmed(climb, method))
        return
    if row.name != "nuts":
        yield _attempt(row.name, lambda: _asked(climb, row))
        return
    for accept in CAREFUL:
        name = "nuts" if accept == CAREFUL[0] else f"nuts, target_accept={accept}"
        result, rung = _attempt(name, lambda: _chains(climb, found, accept))  # noqa: B023
        yield result, rung
        if result is None or spent():
            return
        if climb.draws is None and _effort(result) <= LONGER_SECONDS and _nearly_mixed(result):
            result, rung = _attempt(
                f"{name}, {LONGER} times as long",
                lambda: _chains(climb, found, accept, longer=True),  # noqa: B023
            )
            yield result, rung
        if result is None or spent() or not any("divergences" in r.figures for r in _doubts(result)):
            return


def _effort(chains: Posterior) -> float:
    return float(chains.data["posterior"].attrs.get("effort", math.inf))


def _asked(climb: _Climb, row: Method) -> Posterior:
    """What a method gives that takes a problem alone."""
    words: dict[str, object] = {"seed": climb.seed, "progress": climb.progress}
    if climb.draws is not None and "draws" in row.options:
        words["draws"] = climb.draws
    if row.keeps:
        words |= climb.kept(row.name)
    result: Posterior = row.call(climb.problem, **words)
    return result


def _doubts(result: Posterior) -> list[Reason]:
    return [reason for reason in result.verdict.reasons if reason.status != "trusted"]


def _nearly_mixed(result: Posterior) -> bool:
    """Whether chains are doubtful for R-hat or ESS alone, and near their bounds."""
    doubts = _doubts(result)
    chains = result.data["posterior"].sizes["chain"]
    return bool(doubts) and all(
        reason.status == "doubtful"
        and (
            reason.figures.get("rhat", math.inf) <= NEARLY["rhat"]
            or min(reason.figures.get(name, 0.0) for name in ("ess_bulk", "ess_tail")) >= NEARLY["ess"] * chains
        )
        for reason in doubts
    )


def _attempt(name: str, run: Callable[[], Posterior]) -> tuple[Posterior | None, Rung]:
    started = time.perf_counter()
    try:
        result = run()
    except StoreError:  # of the folder, not of the method: whatever came next would be another answer
        raise
    except Exception as error:  # whatever stops one method: the next may well run
        return None, Rung(
            name, "error", None, None, None, time.perf_counter() - started, f"{type(error).__name__}: {error}"
        )
    return result, _rung(name, result, started)


def _rung(name: str, result: Posterior, started: float) -> Rung:
    verdict = result.verdict
    reasons = [reason.text for reason in verdict.reasons if reason.status == verdict.status]
    evaluations = result.data["posterior"].attrs.get("evaluations")
    return Rung(
        name,
        verdict.status,
        result.khat if isinstance(result, Fit) else None,
        _elbo(result) if isinstance(result, Fit) else None,
        None if evaluations is None else int(evaluations),
        time.perf_counter() - started,
        " ".join(reasons),
    )


def _elbo(result: Fit) -> float:
    """The ELBO; of a guide with an algorithm of its own what that reached, before tails were made heavy."""
    own = "evaluations" in result.data["posterior"].attrs
    return float(-result.losses[-1]) if own else result.elbo


def _confirmed(climb: _Climb, method: object) -> Posterior:
    """A variational result; if it is trusted, with what its restarts say."""
    result = _variational(climb, method)
    if not climb.restarts or not result.verdict.trusted:
        return result
    others: list[Fit] = []
    while len(others) < climb.restarts and not spent():
        others.append(_variational(climb, method, RESTART * (len(others) + 1)))
    return with_restarts(result, others) if others else result


def _variational(climb: _Climb, method: Any, further: int = 0) -> Fit:
    """A fit with its draws corrected, with a seed that is so much further on."""
    problem, seed = climb.problem, climb.seed + further
    kept = climb.kept("fit")
    with passed_on() if math.isinf(left()) else nullcontext():  # a budget may end before there is a correction
        result = fit(problem, method, draws=RAW_DRAWS, dtype=problem.dtype, seed=seed, progress=climb.progress, **kept)
    if result.maximum_likelihood or result.point_estimate or not problem.continuous or spent():
        return result  # there are no weights to correct by, or the draws are exact
    try:
        return correct(result, draws=climb.draws, seed=seed)
    except Spent:  # before the first weights were known
        return result


def _quickly(climb: _Climb) -> Fit:
    """A fit of a second, for a budget that no method has got anything in."""
    with finishing(QUICK_SECONDS), within(QUICK_SECONDS):
        recipe = guide("mean_field", precondition="none")
        return fit(climb.problem, recipe, engine="pyro", draws=QUICK_DRAWS, seed=climb.seed, progress=climb.progress)


def _chains(climb: _Climb, found: list[Posterior], accept: float, *, longer: bool = False) -> Posterior:
    fits = [one for one in found if isinstance(one, Fit) and one.verdict.status != "failed"]
    best = min(fits, key=_khat, default=None)
    kept = LONGER * CHAIN_DRAWS if longer else CHAIN_DRAWS if climb.draws is None else max(-(-climb.draws // 4), 1)
    chains = nuts(
        climb.problem, init=best, target_accept=accept, warmup=LONGER * WARMUP if longer else "auto", draws=kept, seed=climb.seed,
        progress=climb.progress, **climb.kept("nuts"),
    )  # fmt: skip
    return complete(chains, climb.seed)


def _rank(result: Posterior) -> tuple[bool, int, bool, float]:
    """Better results first: a point is no posterior, so anything that has a spread comes before it."""
    point = isinstance(result, Fit) and result.point_estimate
    return point, _ORDER[result.verdict.status], not isinstance(result, Fit), _khat(result)


def _khat(result: Posterior) -> float:
    return result.khat if isinstance(result, Fit) and result.khat == result.khat else 9.0


def _plain(record: dict[str, object]) -> dict[str, object]:
    return {name: None if isinstance(value, float) and value != value else value for name, value in record.items()}
