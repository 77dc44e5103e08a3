"""The words of the command line. Imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

import argparse
from typing import Any

from pyrolvm import __version__
from pyrolvm._base.commands import COMMANDS, Command
from pyrolvm._cli.evaluate_words import add_check as _add_check
from pyrolvm._cli.evaluate_words import add_compare_models as _add_compare_models
from pyrolvm._cli.evaluate_words import add_compress as _add_compress
from pyrolvm._cli.evaluate_words import add_evaluate as _add_evaluate
from pyrolvm._cli.evaluate_words import add_loo as _add_loo
from pyrolvm._cli.evaluate_words import add_predict as _add_predict
from pyrolvm._cli.evaluate_words import add_sample as _add_sample
from pyrolvm._cli.options import count as _count
from pyrolvm._cli.options import none_or_more as _none_or_more
from pyrolvm._cli.options import seed as _seed
from pyrolvm._cli.words import CODES as _CODES
from pyrolvm._cli.words import DATA as _DATA
from pyrolvm._cli.words import GUIDE as _GUIDE
from pyrolvm._cli.words import TARGET as _TARGET
from pyrolvm._cli.words import Commands, Parser
from pyrolvm._cli.words import add_keeping as _add_keeping
from pyrolvm._cli.words import add_method as _add_method_options
from pyrolvm._cli.words import add_picture as _add_picture
from pyrolvm._cli.words import add_problem as _add_problem
from pyrolvm._cli.words import add_run as _add_run
from pyrolvm._cli.words import command as _command
from pyrolvm._compat.python import options_of
from pyrolvm._methods.table import METHODS, REGISTERED, Method, methods

__all__ = ["build_parser"]


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Builds the parser of all commands.

    Args:
        wanted: the command that is to be read; the others are listed, and may lack options. ``None`` for all of them in full.

    Raises:
        PluginError: if it is one of another distribution, and broken.
    """
    parser = Parser(
        prog="pyrolvm",
        description="Bayesian latent variable models on Pyro: posteriors you can trust, and the evidence that you can.",
        epilog=(
            "examples:\n"
            "  pyrolvm list\n"
            "  pyrolvm fit eight_schools --guide full_rank\n"
            "  pyrolvm compare eight_schools\n"
            "  pyrolvm compare my_model.py:model --data data.csv --guide full_rank --guide my_guides.py:guide\n"
            "  pyrolvm COMMAND --help\n"
        ),
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = Commands(parser, wanted)
    _add_list(commands)
    for row in METHODS.values():
        _add_method(commands, row)
    _add_compare(commands)
    _add_calibrate(commands)
    _add_sweep(commands)
    _add_evidence(commands)
    _add_gaps(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_check(commands)
    _add_cross_validate(commands)
    _add_loo(commands)
    _add_compare_models(commands)
    _add_compress(commands)
    _add_sample(commands)
    _add_diagnose(commands)
    _add_report(commands)
    _add_doctor(commands)
    if (
        wanted and wanted not in commands.parsers
    ):  # or they are not looked for, which takes longer than all else that help needs
        _add_others(commands, wanted)
    parser.known.update(commands.parsers)
    for command in commands.parsers.values():
        parser.known.update(options_of(command))
    return parser


def _add_others(commands: Commands, wanted: str) -> None:
    """Adds what other distributions register.

    Raises:
        PluginError: if ``wanted`` is one of them, and broken.
    """
    for row in methods().values():
        if row.name not in commands.parsers:
            _add_method(commands, row)
    for name, registered in COMMANDS.sound():
        if name not in commands.parsers:
            _add_registered(commands, name, registered)
    for kind in (REGISTERED, COMMANDS):
        if wanted not in commands.parsers and wanted in kind.entries():
            kind.named(wanted)  # which says what is wrong with it


def _version() -> str:
    return f"pyrolvm {__version__}"


def _add_list(commands: Commands) -> None:
    _command(
        commands,
        "list",
        "catalogue",
        "List the registered problems and guides, with the distribution each comes from.",
        "examples:\n  pyrolvm list\n  pyrolvm list --json - | jq '.guides[].name'\n",
    )


def _add_method(commands: Commands, row: Method) -> None:
    guide = _GUIDE if row.guided else ""
    examples = "".join(f"  {line}\n" for line in row.examples)
    parser = _command(
        commands,
        row.command or row.name,
        "inference",
        row.does,
        f"{_TARGET}\n{_DATA}\n{guide}\nexamples:\n{examples}\n{_CODES}",
    )
    _add_problem(parser)
    if row.guided:
        parser.add_argument("--guide", metavar="GUIDE", help="the variational family (default: chosen for the problem)")
    _add_method_options(parser, row)
    if parser.wanted:
        _add_run(parser, engine="engine" in row.options, checkpoints=row.keeps)


def _add_registered(commands: Commands, name: str, row: Command) -> None:
    examples = "".join(f"  {line}\n" for line in row.examples)
    about = f"{_TARGET}\n{_DATA}\n" if row.problem else ""
    parser = _command(commands, name, "registered", row.does, f"{about}examples:\n{examples}" if examples else about)
    if row.problem:
        _add_problem(parser)
    row.arguments(parser)


def _add_compare(commands: Commands) -> None:
    parser = _command(
        commands,
        "compare",
        "comparing",
        "Fit several guides, run NUTS, and hold them against each other in a table, a figure and an HTML page.",
        f"{_TARGET}\n{_DATA}\n{_GUIDE}"
        "Without --guide every registered guide that suits the problem is fitted; the others are named, with why.\n\n"
        "examples:\n"
        "  pyrolvm compare eight_schools\n"
        "  pyrolvm compare my_model.py:model --data data.csv --guide full_rank --guide flow:transforms=4\n"
        "  pyrolvm compare vae --guide amortized --guide mean_field --no-nuts --out runs/vae\n\n"
        "exit codes: 0 done; 1 the reference failed its verdict, or every other method did; 2 cannot be done as\n"
        "asked, or a guide you named cannot; 130 stopped by Ctrl-C (and saved)\n",
    )
    _add_problem(parser)
    parser.add_argument(
        "--guide", metavar="GUIDE", action="append", help="a guide to compare; repeatable (default: all)"
    )
    parser.add_argument(
        "--nuts", action=argparse.BooleanOptionalAction, default=True, help="run NUTS too (default: yes)"
    )
    parser.add_argument("--reference", metavar="NAME", help="the method to hold the others against (default: nuts)")
    nuts = METHODS["nuts"]
    _add_method_options(parser, METHODS["fit"], but=nuts.options if parser.wanted else ())
    _add_method_options(parser, nuts)
    _add_run(parser)


def _add_calibrate(commands: Commands) -> None:
    parser = _command(
        commands,
        "calibrate",
        "calibrating",
        "Try a method on data simulated from the model, where the truth is known: are its posteriors right?",
        f"{_TARGET}\n{_DATA}\nexamples:\n"
        "  pyrolvm calibrate eight_schools --method nuts --simulations 1000 --workers 2 --out runs/c\n"
        "  pyrolvm calibrate eight_schools --method mean_field --simulations 200\n"
        "  pyrolvm calibrate my_model.py:model --data data.csv --method my_guides.py:guide --out runs/c --resume\n\n"
        f"{_CODES}",
    )
    _add_problem(parser)
    group = parser.add_argument_group("the calibration")
    _add_any_method(group, "auto (infer)")
    group.add_argument("--simulations", metavar="N", type=_count, help="how many data sets (default: 200)")
    group.add_argument("--ranked", metavar="N", type=_count, help="draws that a truth is ranked among (default: 127)")
    group.add_argument(
        "--workers", metavar="N", type=_count, help="processes (default: one for each processor, if that pays)"
    )
    group.add_argument("--seed", metavar="N", type=_seed, help="the same seed gives the same ranks (default: 0)")
    _add_keeping(group, what="where each simulation is kept (default: runs/, under the target's name)")


def _add_any_method(group: Any, auto: str) -> None:
    """``--method``, of all methods and guides."""
    names = ", ".join(name for name in METHODS if name != "fit")
    text = f"{auto}, {names}, a guide with or without options, or path/file.py:guide (default: auto)"
    group.add_argument("--method", metavar="NAME", default="auto", help=text)


def _add_cross_validate(commands: Commands) -> None:
    parser = _command(
        commands,
        "cross-validate",
        "validating",
        "Hold rows, or whole groups, out of a fit and predict them, for all rows in turn.",
        f"{_TARGET}\n{_DATA}\nexamples:\n"
        "  pyrolvm cross-validate my_model.py:model --data data.csv --method full_rank --folds 10\n"
        "  pyrolvm cross-validate eight_schools --method nuts --groups school --jobs 2 --out runs/cv --resume\n\n"
        f"{_CODES}",
    )
    _add_problem(parser)
    group = parser.add_argument_group("the cross-validation")
    _add_any_method(group, "auto")
    group.add_argument("--folds", metavar="K", type=_count, help="how many parts (default: 10, or one for each group)")
    group.add_argument("--groups", metavar="PLATE", help="hold out the members of this plate with all rows of theirs")
    group.add_argument("--draws", metavar="N", type=_count, help="draws of each fit that predict (default: 1000)")
    _add_workers(group)
    group.add_argument("--seed", metavar="N", type=_seed, help="the same seed gives the same result (default: 0)")
    _add_keeping(group, what="where fits and the result are kept (default: runs/, under the target's name)")


def _add_workers(group: Any) -> None:
    group.add_argument("--jobs", metavar="N", type=_count, help="processes (default: one for each processor)")
    text = "local, here, dask, ray, or the address of a Dask or Ray cluster (default: local)"
    group.add_argument("--backend", metavar="NAME", help=text)


def _add_sweep(commands: Commands) -> None:
    parser = _command(
        commands,
        "sweep",
        "sweeping",
        "Run every guide or method on every problem with every seed, in several processes or on a cluster.",
        f"{_TARGET}\n{_DATA}\n{_GUIDE}\nexamples:\n"
        "  pyrolvm sweep eight_schools_noncentered funnel --guide mean_field --guide flow --guide nuts --seeds 5 --out runs/s\n"
        "  pyrolvm sweep my_model.py:model --data data.csv --guide full_rank --seeds 10 --jobs 2 --out runs/s --resume\n"
        "  pyrolvm sweep ppca --guide mean_field --seeds 20 --backend tcp://scheduler:8786\n\n"
        "exit codes: 0 every cell is done; 1 some are not, see the table; 2 cannot be done as asked; 130 stopped by\n"
        "Ctrl-C (and what is done is kept)\n",
    )
    _add_problem(parser, several=True)
    group = parser.add_argument_group("the sweep")
    group.add_argument(
        "--guide",
        metavar="GUIDE",
        action="append",
        help=f"a guide, or auto, {', '.join(name for name in METHODS if name != 'fit')}; repeatable (default: auto)",
    )
    group.add_argument("--seeds", metavar="N", default="1", help="how many seeds, or which, with commas (default: 1)")
    _add_workers(group)
    group.add_argument(
        "--retries",
        metavar="N",
        type=_none_or_more,
        help="how often a cell whose process died is begun again (default: 1)",
    )
    group.add_argument(
        "--reference", metavar="GUIDE", help="what accuracy is measured against (default: exact, or else nuts)"
    )
    group.add_argument(
        "--keep", action=argparse.BooleanOptionalAction, default=True, help="save posteriors too (default: yes)"
    )
    taken: set[str] = set()
    for row in methods().values() if parser.wanted else ():
        _add_method_options(parser, row, but=taken)
        taken |= set(row.options)
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--engine", metavar="NAME", help="what runs models: auto, c, jax, torch (guides only) or pyro (default: auto)"
    )
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: auto)")
    _add_keeping(group, what="where each cell is kept (default: runs/, under the target's name)")
    group.add_argument(
        "--retry-failed", action="store_true", help="with --resume: run cells again that raised an error"
    )


def _add_evidence(commands: Commands) -> None:
    parser = _command(
        commands,
        "evidence",
        "evidencing",
        "Estimate the log marginal likelihood of the data, with its error, by one method or several.",
        f"{_TARGET}\n{_DATA}\n{_GUIDE}\nexamples:\n"
        "  pyrolvm evidence eight_schools --method ais\n"
        "  pyrolvm evidence eight_schools --method prior,ais,bridge --plot evidence.png\n"
        "  pyrolvm evidence my_model.py:model --data data.csv --guide my_guides.py:guide --method iw_bound\n\n"
        f"{_CODES}",
    )
    _add_problem(parser)
    group = parser.add_argument_group("the evidence")
    group.add_argument(
        "--method",
        metavar="NAMES",
        default="auto",
        help="auto, or of exact, prior, importance, iw_bound, ais, bidirectional and bridge, with commas (default: auto)",
    )
    group.add_argument("--guide", metavar="GUIDE", help="fit this guide first, and draw or anneal from it")
    group.add_argument(
        "--draws", metavar="N", type=_count, help="draws, or annealed particles (default: by the method)"
    )
    group.add_argument("--schedule", metavar="N", type=_count, help="rungs of annealing (default: by a pilot run)")
    group.add_argument("--seed", metavar="N", type=_seed, help="the same seed gives the same estimate (default: 0)")
    _add_picture(group, "draw estimates and errors against densities evaluated")
    _add_keeping(parser.add_argument_group("the run"), what="where to save (default: nowhere)", overwrite=False)


def _add_gaps(commands: Commands) -> None:
    parser = _command(
        commands,
        "gaps",
        "gapping",
        "Fit a guide with local latents, and say what its family, its encoder and collapsed units lose.",
        f"{_TARGET}\n{_DATA}\n{_GUIDE}\nexamples:\n"
        "  pyrolvm gaps vae --option images=500 --batch-size 100 --rows 200\n"
        "  pyrolvm gaps my_model.py:model --data data.npz --guide my_guides.py:encoder --plot gaps.png\n\n"
        f"{_CODES}",
    )
    _add_problem(parser)
    parser.add_argument("--guide", metavar="GUIDE", default="amortized", help="the guide (default: amortized)")
    _add_method_options(parser, METHODS["fit"], but=("draws",))
    group = parser.add_argument_group("the gaps")
    group.add_argument("--rows", metavar="N", type=_count, help="how many rows to look at (default: all)")
    group.add_argument(
        "--method", metavar="NAME", help="the rows' evidence: auto, exact, importance or ais (default: auto)"
    )
    group.add_argument("--draws", metavar="N", type=_count, help="draws of a row (default: 1000)")
    group.add_argument("--seed", metavar="N", type=_seed, help="the same seed gives the same result (default: 0)")
    _add_picture(group, "draw evidence, bounds, refinement and units")
    _add_keeping(parser.add_argument_group("the run"), what="where to save (default: nowhere)", overwrite=False)


def _add_diagnose(commands: Commands) -> None:
    parser = _command(
        commands,
        "diagnose",
        "saved",
        "Judge a saved run: k-hat and evidence of a fit, R-hat and divergences of chains, and what to do next.",
        "examples:\n"
        "  pyrolvm diagnose runs/a\n"
        "  pyrolvm diagnose runs/eight_schools-1    (a comparison: every method)\n\n"
        f"{_CODES}",
    )
    parser.add_argument("run", metavar="RUN", help="a folder written by fit, nuts, compare or result.save()")


def _add_report(commands: Commands) -> None:
    parser = _command(
        commands,
        "report",
        "saved",
        "Build one HTML page from saved runs, without fitting anything: about one of any kind, or a comparison of several.",
        "examples:\n"
        "  pyrolvm report runs/eight_schools-1\n"
        "  pyrolvm report runs/calibration-1 --out calibration.html\n"
        "  pyrolvm report runs/a runs/b runs/nuts --reference nuts --out report.html\n\n"
        "exit codes: 0 done; 1 the result or reference failed its verdict, or every method did; 2 cannot be done as asked\n",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="+", help="folders written by any command with --out, or result.save()"
    )
    parser.add_argument("--reference", metavar="NAME", help="the method to hold the others against (default: nuts)")
    parser.add_argument("--out", metavar="FILE", default="report.html", help="where to write it (default: report.html)")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def _add_doctor(commands: Commands) -> None:
    parser = _command(
        commands,
        "doctor",
        "doctor",
        "Check this installation: versions, devices, processors, compilers, ArviZ, plugins.",
        "examples:\n  pyrolvm doctor\n  pyrolvm doctor --thorough --json doctor.json\n  pyrolvm doctor --clear-cache\n\n"
        "exit codes: 0 everything required works; 1 something required is broken\n",
    )
    parser.add_argument("--thorough", action="store_true", help="import every package, sampler and plugin too")
    parser.add_argument(
        "--clear-cache", action="store_true", help="remove the compiled programs that are kept, and do nothing else"
    )
