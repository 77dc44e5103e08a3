"""TARGET and --guide: from what is written on the command line to a problem and its guides."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

import pyrolvm as lvm
from pyrolvm._base.errors import ArgumentError, DataError, unknown_name
from pyrolvm._base.passing import passed_over
from pyrolvm._base.runtime import session
from pyrolvm._cli.sources import checked, file_and_name, load_data, load_module, member
from pyrolvm._cli.values import split_options

__all__ = ["load_guide", "load_problem", "target_name"]


def target_name(target: str) -> str:
    """A short name for a target, for folders: its registered name, or that of the function in its file."""
    file = file_and_name(target)
    return target if file is None else file[1] or file[0].stem


def load_problem(args: argparse.Namespace) -> lvm.Problem:
    """Builds the problem that ``args.target`` names, with ``args.data``, ``args.option`` and ``args.dtype``.

    Raises:
        PyrolvmError: if there is no such problem, or its model and data do not go together.
    """
    dtype = getattr(torch, args.dtype) if args.dtype else None
    data = load_data(Path(args.data)) if args.data else {}
    # A session of its own: data are read in the dtype asked for, and a factory that draws some draws the same.
    with session(seed=0, dtype=dtype, validate=True):
        problem = _problem(args.target, dict(args.option), data, args.data)
    return problem.to(dtype=dtype) if dtype is not None else problem


def _problem(target: str, options: dict[str, object], data: Mapping[str, object], data_file: str | None) -> lvm.Problem:
    file = file_and_name(target)
    if file is None:
        if data:
            raise ArgumentError(
                f"--data is for a model in a file; the registered problem {target!r} brings its own. "
                "Fix: leave --data out, or name the model as path/file.py:function."
            )
        if "/" in target or "." in target:
            raise ArgumentError(f"no problem is called {target!r}. Fix: write a file as path/file.py:function.")
        return lvm.problem(target, **options)
    path, name = file
    found = member(load_module(path), path, name, "model")
    if isinstance(found, lvm.Problem):
        if options or data:
            raise ArgumentError(
                f"{target} is a finished Problem and takes no --option and no --data. Fix: leave them out."
            )
        return found
    if not callable(found):
        raise ArgumentError(
            f"{target} is a {type(found).__name__}, expected a Pyro model, a function that returns an lvm.Problem, "
            "or an lvm.Problem. Fix: name the function."
        )
    return _from_function(found, target, options, data, data_file)


def _from_function(
    function: Callable[..., object],
    target: str,
    options: dict[str, object],
    data: Mapping[str, object],
    data_file: str | None,
) -> lvm.Problem:
    """A problem from a function of a file: one that returns a problem, or a model with data for its arguments."""
    args, kwargs = _arguments(function, target, options, data, data_file)
    if not data:
        # Without data this may be a function that makes a problem. A model that is run once here does no harm, and what
        # is wrong with it is said by Problem.
        try:
            made = function(*args, **kwargs)
        except lvm.PyrolvmError:
            raise
        except Exception:
            passed_over("perhaps no function that makes a problem")
            made = None
        if isinstance(made, lvm.Problem):
            return made
    return lvm.Problem(function, *args, **kwargs)


def _arguments(
    function: Callable[..., object],
    target: str,
    options: dict[str, object],
    data: Mapping[str, object],
    data_file: str | None,
) -> tuple[list[object], dict[str, object]]:
    """Picks a function's arguments by name from options and data. Positional where possible: a guide may rename them.

    Raises:
        ArgumentError: if an option is none of its arguments.
        DataError: if an argument is left without a value.
    """
    called = function.forward if isinstance(function, torch.nn.Module) else function
    parameters = inspect.signature(called).parameters
    names = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if option not in names and not takes_all:
            raise unknown_name(f"argument of {target}", option, names)
    values: dict[str, object] = dict(options)
    for name in names:
        if name in options:
            continue
        if name in data:
            values[name] = checked(data[name])
        elif parameters[name].default is inspect.Parameter.empty:
            where = f"{data_file} holds {', '.join(sorted(data))}" if data_file else "no --data was given"
            raise DataError(
                f"{target} takes {', '.join(names)}, and {name!r} has no value: {where}. "
                f"Fix: name {name!r} in the data file, or pass --option {name}=VALUE."
            )
    positional: list[object] = []
    for name in names:
        if name not in values or parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            break
        positional.append(values.pop(name))
    return positional, values


def load_guide(text: str) -> object:
    """Returns what ``--guide`` names: a registered guide, with options or without, or a guide function from a file.

    Raises:
        PyrolvmError: if there is no such guide.
    """
    file = file_and_name(text)
    if file is not None:
        return member(load_module(file[0]), file[0], file[1], "guide")
    name, colon, options = text.partition(":")
    if name == "auto" and not colon:
        return "auto"
    try:
        return lvm.guide(name, **split_options(options))
    except ValueError as error:
        if isinstance(error, lvm.PyrolvmError):
            raise
        raise ArgumentError(f"--guide {text}: an option {error}") from None
