"""The table of methods: each way from a problem to a posterior is a row, and whoever runs methods by name reads it here.

The command line has a command for each row, with the options of its function; :func:`pyrolvm.calibrate` and :func:`pyrolvm.sweep` run
rows by name; :func:`pyrolvm.infer` climbs those that are rungs; :func:`pyrolvm.load` knows their results.

Another distribution adds a row by an entry point of the group ``pyrolvm.methods``: its name, and ``module:row`` where ``row`` is a
:class:`Method`. Nothing is imported before its name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrolvm._base.entries import Kind
from pyrolvm._base.errors import PluginError
from pyrolvm._compat.python import replaced
from pyrolvm._methods.options import Option, options_of

if TYPE_CHECKING:
    from pyrolvm._results import Posterior

__all__ = [
    "METHODS",
    "REGISTERED",
    "Method",
    "by_name",
    "method",
    "methods",
    "of_command",
    "result_type",
    "without_guide",
]


class Method(NamedTuple):
    """A way from a problem to a posterior.

    Attributes:
        name: what it is called everywhere.
        home: its function, as ``module:function`` where it is written. It takes a problem (and a guide, where ``guided``) and
            keywords, ``seed`` and ``progress`` among them, and returns a :class:`pyrolvm.Posterior`.
        result: the class of what it returns, as ``module:class``.
        does: one sentence for the list of commands.
        examples: lines that show its command.
        guided: whether its second argument is a guide. There is one such method; the others are asked for by their names.
        rung: whether :func:`pyrolvm.infer` tries it by itself after NUTS, where no method before could be trusted.
        command: the word of its command, where something else has its name there.
    """

    name: str
    home: str
    result: str
    does: str
    examples: tuple[str, ...] = ()
    guided: bool = False
    rung: bool = False
    command: str = ""

    @property
    def call(self) -> Callable[..., Any]:
        """Its function.

        Raises:
            PluginError: if it cannot be imported.
        """
        return _imported(self.name, self.home)

    @property
    def returns(self) -> type[Posterior]:
        """The class of its results.

        Raises:
            PluginError: if it cannot be imported.
        """
        return _imported(self.name, self.result)

    @property
    def options(self) -> Mapping[str, Option]:
        """Its options by name, but for those that say where a run is kept or how it is shown; nothing is imported for it."""
        return {name: option for name, option in options_of(self.home).items() if option.counts}

    @property
    def keeps(self) -> bool:
        """Whether it keeps what it reaches on the way, and goes on from there."""
        return "checkpoint_every" in options_of(self.home)


def _imported(name: str, home: str) -> Any:
    module, _, attribute = home.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"method {name!r} ({home}) cannot be imported: {type(error).__name__}: {error}. "
            "Fix: repair or uninstall the distribution that it comes from."
        ) from error


_ROWS = (
    Method(
        "fit",
        "pyrolvm._methods.fit.inference:fit",
        "pyrolvm._results:Fit",
        "Fit a guide to a problem by variational inference and judge the result.",
        (
            "pyrolvm fit eight_schools --guide full_rank --seed 5 --out runs/a",
            "pyrolvm fit ppca --option k=3 --guide mean_field --max-steps 20000",
            "pyrolvm fit my_model.py:model --data data.npz --guide my_guides.py:guide --json -",
        ),
        guided=True,
    ),
    Method(
        "nuts",
        "pyrolvm._methods.nuts.inference:nuts",
        "pyrolvm._results:Chains",
        "Draw from the posterior with the No-U-Turn sampler: the baseline for every guide.",
        (
            "pyrolvm nuts eight_schools --chains 4 --draws 2000 --target-accept 0.95",
            "pyrolvm nuts my_model.py:model --data data.csv --out runs/nuts",
        ),
    ),
    Method(
        "sample",
        "pyrolvm._methods.kernels.inference:sample",
        "pyrolvm._results:Chains",
        "Draw by one of BlackJAX's kernels, many short chains side by side.",
        (
            "pyrolvm mcmc eight_schools --kernel mams --chains 64",
            "pyrolvm mcmc my_model.py:model --data data.csv --kernel chees --out runs/chees",
        ),
        command="mcmc",
    ),
    Method(
        "smc",
        "pyrolvm._methods.smc.inference:smc",
        "pyrolvm._methods.smc.result:Particles",
        "Carry particles from the prior to the posterior: several modes with their shares, and the evidence.",
        (
            "pyrolvm smc gaussian_mixture --particles 4096 --seed 1",
            "pyrolvm smc my_model.py:model --data data.csv --out runs/smc",
        ),
        rung=True,
    ),
    Method(
        "sparse",
        "pyrolvm._methods.sparse.inference:sparse",
        "pyrolvm._methods.sparse.result:Sparse",
        "Integrate out blocks of unknowns and weigh what they share: hierarchies of any size, regressions of many rows.",
        (
            "pyrolvm sparse my_model.py:mixed --data pupils.csv",
            "pyrolvm sparse my_model.py:mixed --data pupils.csv --draws 4000 --out runs/sparse",
        ),
    ),
    Method(
        "exact",
        "pyrolvm._methods.exact.inference:exact",
        "pyrolvm._results:Exact",
        "Draw from the posterior itself, with the evidence, where the model's structure gives it; or say why it does not.",
        (
            "pyrolvm exact my_model.py:regression --data data.csv",
            "pyrolvm exact my_model.py:hmm --data data.npz --draws 10000 --out runs/exact",
        ),
    ),
    Method(
        "infer",
        "pyrolvm._methods.infer.inference:infer",
        "pyrolvm._results:Posterior",
        "Climb from cheap methods to dear ones until the posterior can be trusted.",
        (
            "pyrolvm infer eight_schools",
            "pyrolvm infer my_model.py:model --data data.csv --methods vi --out runs/a",
            "pyrolvm infer eight_schools --methods student,flow,nuts --budget 60",
        ),
    ),
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}
"""The rows of this distribution, by name."""


REGISTERED: Kind[Method] = Kind("method", "pyrolvm.methods", "a Method", lambda row: isinstance(row, Method))


def methods() -> dict[str, Method]:
    """All rows by name: ours, then those of other distributions, which cannot take our names; broken ones are left out."""
    return {**METHODS, **{name: replaced(row, name=name) for name, row in REGISTERED.sound() if name not in METHODS}}


def by_name() -> list[str]:
    """The names of the methods that are asked for by name alone, without a guide: ours, and those of other distributions."""
    ours = [name for name, row in METHODS.items() if not row.guided]
    return [*ours, *(name for name in REGISTERED.entries() if name not in METHODS)]


def without_guide(name: object) -> Method | None:
    """The row of a method that is asked for by its name alone; ``None`` for a guide, or whatever else is no such name.

    Raises:
        PluginError: if it cannot be imported or is no :class:`Method`.
    """
    if not isinstance(name, str):
        return None
    if name in METHODS:  # which is known without a look at what other distributions register
        return None if METHODS[name].guided else METHODS[name]
    entry = REGISTERED.entries().get(name)
    return None if entry is None else replaced(REGISTERED.load(entry), name=name)


def method(name: str) -> Method:
    """A row.

    Raises:
        UnknownNameError: if there is none of that name.
        PluginError: if it cannot be imported or is no :class:`Method`.
    """
    return METHODS[name] if name in METHODS else replaced(REGISTERED.named(name, *METHODS), name=name)


def of_command(word: str) -> Method:
    """The row whose command has that word, which there is.

    Raises:
        PluginError: if it cannot be imported or is no :class:`Method`.
    """
    return next((row for row in METHODS.values() if row.command == word), None) or method(word)


def result_type(name: str) -> type[Posterior] | None:
    """The class of results of that name, of our methods first, then of those of other distributions; ``None`` if none makes it."""
    for rows in (METHODS, methods()):
        for row in rows.values():
            if row.result.rpartition(":")[2] == name:
                return row.returns
    return None
