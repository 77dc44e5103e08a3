"""``pyrolvm compare``: several guides and NUTS on one problem, and the page that says which to believe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyrolvm as lvm
from pyrolvm import _runs as runs
from pyrolvm._base.errors import unknown_name
from pyrolvm._cli.inference import given, show
from pyrolvm._cli.output import Output
from pyrolvm._cli.runs import PARTS, choose_folder, in_force, kept, picture, slug, write_parts
from pyrolvm._cli.signals import Stopped
from pyrolvm._cli.target import load_guide, load_problem, target_name
from pyrolvm._cli.words import plain_words
from pyrolvm._methods.table import METHODS
from pyrolvm._program.code import fingerprint
from pyrolvm._results import store
from pyrolvm.family.choice import resolve

__all__ = ["compared", "drawn", "judge", "run"]

NUTS = "nuts"
NUTS_WORDS = plain_words(METHODS[NUTS])
FIT_WORDS = plain_words(METHODS["fit"], but=("draws",))
"""Without the draws, which are those of each chain."""
PAGES = ("report.html", "overview.png", "comparison.json")
_COLUMNS = [
    "verdict",
    "agrees",
    "differs",
    "unclear",
    "worst_mean_diff",
    "worst_sd_ratio",
    "khat",
    "elbo",
    "rhat",
    "ess_bulk",
    "seconds_total",
    "engine",
]
_ORDER = {"trusted": 0, "doubtful": 1, "failed": 2}


@dataclass
class _Reached:
    """What a comparison has so far."""

    posteriors: dict[str, lvm.Posterior] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``compare``."""
    named = args.guide is not None
    folder = choose_folder(args, target_name(args.target))
    left_out: dict[str, str] = {}
    guides = {text: load_guide(text) for text in args.guide} if named else _registered(left_out)
    _check_reference(args, list(guides))
    problem = load_problem(args)
    out.note(f"{problem!r}")

    def work(run: runs.Run | None) -> _Reached:
        assert run is not None
        return _compared(args, problem, guides, run, _Reached(left_out=dict(left_out)), out, stopped)

    # A finished comparison is made again of its posteriors, each of which is found finished: `more` says so.
    codec: runs.Codec[_Reached] = runs.Codec("Comparison", lambda _: {}, partial=lambda reached: reached.interrupted)
    about = store.identity(None, problem, None, args.seed or 0, _asked(args, problem, guides))
    reached = runs.run(
        runs.order(**kept(args, folder)), "compare", about, codec, work, more=True, pages=(*PAGES, PARTS)
    )
    if stopped:
        out.log.print(f"stopped; what was reached ({', '.join(reached.posteriors) or 'nothing'}) is saved in {folder}")
        if not reached.posteriors:
            return 0  # the signal decides the exit code
    code = _conclude(args, reached, folder, out, pages=in_force(folder, stopped=bool(stopped)))
    if named and reached.left_out and not stopped:
        return 2
    return code


def _compared(
    args: argparse.Namespace,
    problem: lvm.Problem,
    guides: Mapping[str, object],
    run: runs.Run,
    reached: _Reached,
    out: Output,
    stopped: Stopped,
) -> _Reached:
    """Every method's posterior, each kept as soon as it is there."""
    folders: dict[str, str] = {}
    try:
        for label, method in _methods(args, problem, guides, out):
            name, n = slug(label), 1
            while name in folders.values():
                n += 1
                name = f"{slug(label)[:95]}-{n}"
            folders[label] = name
            write_parts(run, folders)
            _reach(label, method, run.part(PARTS, name), reached, out)
            if stopped:
                break
    except KeyboardInterrupt:
        pass  # `stopped` remembers
    reached.interrupted = bool(stopped)
    if not reached.posteriors and not stopped:
        reasons = "; ".join(f"{label}: {why}" for label, why in reached.left_out.items())
        raise lvm.FitError(f"no method gave a posterior. {reasons or 'None was run.'} Fix: see the reasons above.")
    return reached


def _registered(left_out: dict[str, str]) -> dict[str, Any]:
    """Every registered guide that can be imported."""
    guides = {}
    for name in lvm.guides():
        try:
            guides[name] = lvm.guide(name)
        except lvm.PluginError as error:
            left_out[name] = str(error)
    return guides


def _check_reference(args: argparse.Namespace, guides: list[str]) -> None:
    """Refuses a reference that will not be there, before anything runs."""
    labels = [NUTS, *guides] if args.nuts else guides
    if args.reference is not None and args.reference not in labels:
        raise unknown_name("method of this comparison", args.reference, labels)


def _asked(args: argparse.Namespace, problem: lvm.Problem, guides: Mapping[str, object]) -> dict[str, object]:
    """What else the numbers of a comparison depend on."""
    words = dict.fromkeys((*FIT_WORDS, *NUTS_WORDS, "nuts"))
    found = {label: resolve(guide, problem) for label, guide in guides.items()}
    return {
        "arguments": given(args, tuple(words)),
        "guides": {label: f"{recipe} {fingerprint(recipe.construct)}" for label, recipe in found.items()},
    }


def _methods(
    args: argparse.Namespace, problem: lvm.Problem, guides: Mapping[str, object], out: Output
) -> Iterator[tuple[str, Callable[..., lvm.Posterior]]]:
    """Every method by name, NUTS first: whenever it is stopped, there is something to compare with."""
    if args.nuts:
        words = given(args, NUTS_WORDS)
        if words.get("engine") == "torch":
            del words["engine"]  # of fits alone
        yield NUTS, partial(lvm.nuts, problem, progress=out.progress, **words)
    for label, guide in guides.items():
        yield label, partial(lvm.fit, problem, guide, progress=out.progress, **given(args, FIT_WORDS))


def _reach(label: str, method: Callable[..., lvm.Posterior], asked: runs.Order, reached: _Reached, out: Output) -> None:
    """Runs one method, which keeps what it gives. A failure is noted and disturbs no other method.

    Raises:
        StoreError: if the folder does not take it.
    """
    try:
        posterior = method(out=asked.out, resume=asked.resume, checkpoint_every=asked.every)
    except lvm.StoreError:  # of the folder, not of the method
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, lvm.PyrolvmError) else f"{type(error).__name__}: {error}"
        reached.left_out[label] = reason
        out.log.print(f"{label}: left out. {reason}")
        return
    reached.posteriors[label] = posterior
    out.log.print(f"{label}: {posterior.verdict.status}, {sum(posterior.seconds.values()):.1f} s")


def _conclude(args: argparse.Namespace, reached: _Reached, folder: Path, out: Output, *, pages: bool) -> int:
    if len(reached.posteriors) == 1:
        (posterior,) = reached.posteriors.values()
        diagnosis = lvm.diagnose(posterior)
        verdict = diagnosis.verdict.and_also(posterior.verdict)
        show(posterior, diagnosis, verdict, out)
        out.line(f"one method is nothing to compare with; its posterior is saved in {folder}")
        _print_left_out(reached.left_out, out)
        return 1 if verdict.status == "failed" else 0
    comparison = compared(reached.posteriors, args.reference)
    if pages:
        runs.write_pages(folder, {**drawn(comparison, PAGES, reached.left_out), PARTS: PARTS})
    out.frame(comparison.methods[[c for c in _COLUMNS if c in comparison.methods]], f"against {comparison.reference}")
    for advice in comparison.advice:
        out.line(f"- {advice}", hang=2)
    _print_left_out(reached.left_out, out)
    out.line(f"saved in {folder}: {'report.html, overview.png, comparison.json, ' if pages else ''}posteriors/")
    out.next([f"open {folder / 'report.html'}", f"pyrolvm diagnose {folder}    every method on its own"])
    out.write_json(
        {
            "command": "compare",
            "target": args.target,
            "saved": str(folder),
            **comparison.as_dict(),
            "left_out": reached.left_out,
        }
    )
    return judge(comparison)


def compared(posteriors: Mapping[str, lvm.Posterior], reference: str | None) -> lvm.Comparison:
    """Compares posteriors. Without NUTS, an exact one or a name, the reference is the best verdict, then the highest ELBO."""
    if reference is not None and reference not in posteriors:
        reference = None  # it was left out, and that is said
    exact = any(isinstance(posterior, lvm.Exact) for posterior in posteriors.values())
    if reference is None and NUTS not in posteriors and not exact:
        reference = min(posteriors, key=lambda name: _rank(posteriors[name]))
    return lvm.compare(posteriors, reference)


def _rank(posterior: lvm.Posterior) -> tuple[int, float]:
    return _ORDER[posterior.verdict.status], -float(getattr(posterior, "elbo", float("-inf")))


def drawn(
    comparison: lvm.Comparison, names: tuple[str, str, str], left_out: Mapping[str, str]
) -> dict[str, runs.Write]:
    """Page, figure and JSON of a comparison, by name."""
    page, figure, data = names
    comparison.notes.extend(f"{label} was left out: {why}" for label, why in left_out.items())
    return {
        data: lambda file: file.write(comparison.to_json().encode()),
        page: lambda file: file.write(comparison.to_html().encode()),
        figure: lambda file: picture(comparison.plot())(file),
    }


def judge(comparison: lvm.Comparison) -> int:
    """The exit code: 1 where the reference failed its own verdict, or every method did."""
    verdicts = {name: diagnosis.verdict.status for name, diagnosis in comparison.diagnoses.items()}
    others = [status for name, status in verdicts.items() if name != comparison.reference]
    return int(verdicts[comparison.reference] == "failed" or all(status == "failed" for status in others))


def _print_left_out(left_out: Mapping[str, str], out: Output) -> None:
    for label, why in left_out.items():
        out.line(f"{label} was left out: {why}")
