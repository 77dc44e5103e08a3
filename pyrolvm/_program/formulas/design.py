"""What a formula makes of a table: columns of numbers, group labels and the response, again for each new table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.numerics import Array

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Design", "Group", "Response", "slug"]

_BLOCK = re.compile(r"[+]?\s*\(((?:[^()|]|\([^()]*\))*)\|((?:[^()|]|\([^()]*\))*)\)")
"""``(1 + x | g)``, of which the parts may call functions."""
_RESERVED = ("X", "offset", "trials", "size", "pyro", "dist", "b", "eta", "means", "centre", "Intercept")


def slug(text: str) -> str:
    """A name of Python like a text."""
    found = re.sub(r"\W+", "_", text).strip("_") or "y"
    return f"_{found}" if found[0].isdigit() else found


@dataclass(frozen=True)
class Group:
    """A factor whose levels have effects of their own.

    Attributes:
        name: of the argument with each row's level.
        columns: of the table, which together say the level.
        terms: names of the effects of a level, the intercept ``"1"`` first.
        slopes: what makes the numbers that the effects are multiplied by; ``None`` for intercepts alone.
        scales: standard deviations of these numbers, 1 for the intercept.
    """

    name: str
    columns: tuple[str, ...]
    terms: tuple[str, ...]
    slopes: Any
    scales: tuple[float, ...]


@dataclass(frozen=True)
class Response:
    """What is explained.

    Attributes:
        text: as the formula has it.
        name: of the argument.
        levels: of a response of labels, in order; ``None`` for numbers.
        proportion: whether it is a number of successes with a number of trials.
        values: of the table that the formula was given, trials beside successes.
    """

    text: str
    name: str
    levels: tuple[str, ...] | None
    proportion: bool
    values: Array = field(repr=False)


@dataclass(frozen=True)
class Design:
    """The columns that a formula asks for, and how those of another table are made in the same way.

    Attributes:
        text: the formula.
        response: what is explained.
        common: formulae's matrix of what all rows share; ``None`` for nothing but an intercept.
        columns: its columns but the intercept and offsets.
        intercept: whether there is one.
        offset: whether some terms have no coefficient.
        center: means of the columns.
        scales: their standard deviations.
        groups: factors with effects.
        table: the arguments that the table is, by name.
    """

    text: str
    response: Response
    common: Any = field(repr=False)
    columns: tuple[str, ...]
    intercept: bool
    offset: bool
    center: tuple[float, ...]
    scales: tuple[float, ...]
    groups: tuple[Group, ...]
    table: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def of(cls, text: str, table: pd.DataFrame) -> Design:
        """Reads a formula with the table that it is about.

        Raises:
            ImportError: if formulae is not installed.
            ArgumentError: if the formula cannot be read, names no column, or explains what is missing.
        """
        left, tilde, right = text.partition("~")
        if not tilde or not left.strip():
            raise ArgumentError(f'formula {text!r} explains nothing. Fix: write it as "y ~ x + (1|g)".')
        blocks = _BLOCK.findall(right)
        shared = _BLOCK.sub(" ", right).strip().lstrip("+").strip() or "1"
        response = _response(left.strip(), table, text)
        common = _matrix(shared, table, text)
        names = _columns(common)
        matrix = _numbers(common, names)
        groups = tuple(_group(effects.strip() or "1", factor.strip(), table, text) for effects, factor in blocks)
        twice = [group.name for group in groups if [one.name for one in groups].count(group.name) > 1]
        groups = tuple(
            Group(f"{one.name}_{i}", *_rest(one)) if one.name in twice else one for i, one in enumerate(groups, 1)
        )
        kinds = [term.kind for term in common.terms.values()]
        made = cls(
            text, response, common, tuple(names), "intercept" in kinds, "offset" in kinds,
            tuple(float(one) for one in matrix.mean(axis=0)), tuple(_spread(one) for one in matrix.T), groups,
        )  # fmt: skip
        made.check_names()
        return replace(made, table=made.arguments(table))

    def check_names(self) -> None:
        """Refuses names that would mean two things in the program."""
        names = [self.response.name, *(one.name for one in self.groups)]
        taken = next((name for name in names if name in _RESERVED or names.count(name) > 1), None)
        if taken is not None:
            raise ArgumentError(
                f"the program of {self.text!r} would have two arguments {taken!r}. Fix: rename that column."
            )

    def arguments(self, table: pd.DataFrame) -> dict[str, Any]:
        """The program's arguments for a table, by name; without the response where the table has none.

        Raises:
            ArgumentError: if a column is missing, or has levels that the common part does not know.
        """
        import pandas as pd

        table = pd.DataFrame(table)
        found: dict[str, Any] = {}
        try:
            common = self.common.evaluate_new_data(table)
            if self.columns:
                found["X"] = _numbers(common, list(self.columns))
            if self.offset:
                found["offset"] = _offset(common)
            for group in self.groups:
                found[group.name] = _labels(table, group.columns)
                if group.slopes is not None:
                    found[f"Z_{group.name}"] = np.asarray(
                        group.slopes.evaluate_new_data(table).design_matrix, dtype=float
                    )
        except (KeyError, ValueError) as error:
            raise ArgumentError(
                f"the table does not suit {self.text!r}: {error}. Fix: give it the columns and levels that the fit had."
            ) from error
        observed = self._observed(table)
        if not found and "trials" not in observed:
            found["size"] = len(table)
        return {**found, **observed}

    def _observed(self, table: pd.DataFrame) -> dict[str, Any]:
        """The response, and the number of trials, of a table; nothing of one without."""
        evaluated = import_module("formulae").design_matrices
        response = self.response
        if response.proportion:
            successes, trials = _proportion(response.text)
            found = {"trials": _trials(trials, table)}
            return found | ({response.name: table[successes].to_numpy()} if successes in table.columns else {})
        try:
            values = evaluated(f"{response.text} ~ 1", table).response
        except (KeyError, NameError, ValueError):  # a table of what is to be predicted
            return {}
        if response.levels is None:
            return {response.name: np.asarray(values.design_matrix, dtype=float)}
        return {response.name: _coded(table[response.text], response)}


def _rest(group: Group) -> tuple[Any, ...]:
    return group.columns, group.terms, group.slopes, group.scales


def _evaluated(text: str, table: pd.DataFrame, whole: str) -> Any:
    """What formulae makes of a text.

    Raises:
        ImportError: if it is not installed.
        ArgumentError: if it cannot read it.
    """
    try:
        formulae = import_module("formulae")
    except ImportError as error:
        raise ImportError("lvm.formula needs formulae. Fix: pip install 'pyrolvm[formula]'.") from error
    try:
        return formulae.design_matrices(text, table, na_action="error")
    except Exception as error:  # its parser raises its own errors, and columns raise theirs
        raise ArgumentError(
            f"formula {whole!r} cannot be read at {text.strip()!r}: {type(error).__name__}: {error}. "
            'Fix: write names of columns with + * : and (1|group), for example "y ~ x + (1|g)".'
        ) from error


def _matrix(text: str, table: pd.DataFrame, whole: str) -> Any:
    """The matrix of terms that all rows share."""
    found = _evaluated(f"{text}", table, whole).common
    if found is None:
        raise ArgumentError(f"formula {whole!r} has no term. Fix: leave the intercept in, or add a column.")
    return found


def _columns(common: Any) -> list[str]:
    """Names of the columns but the intercept and offsets."""
    terms = common.terms.values()
    return [str(label) for term in terms if term.kind not in ("intercept", "offset") for label in term.labels]


def _numbers(common: Any, names: Sequence[str]) -> Array:
    """The columns but the intercept and offsets, shape ``(n, len(names))``."""
    matrix = np.asarray(common.design_matrix, dtype=float)
    parts = [
        matrix[:, common.slices[n]] for n, term in common.terms.items() if term.kind not in ("intercept", "offset")
    ]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(matrix), len(names)))


def _offset(common: Any) -> Array:
    matrix = np.asarray(common.design_matrix, dtype=float)
    return sum(
        (matrix[:, common.slices[n]].sum(axis=1) for n, t in common.terms.items() if t.kind == "offset"),
        np.zeros(len(matrix)),
    )


def _group(effects: str, factor: str, table: pd.DataFrame, whole: str) -> Group:
    columns = tuple(part.strip() for part in factor.split(":"))
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ArgumentError(
            f"formula {whole!r} groups by {missing[0]!r}, which is no column ({', '.join(map(str, table.columns))}). "
            "Fix: name a column, or several as g:h."
        )
    slopes = _matrix(effects, table, whole)
    terms = [str(label) for term in slopes.terms.values() for label in term.labels]
    if terms == ["Intercept"]:
        return Group(slug(factor), columns, ("1",), None, (1.0,))
    matrix = np.asarray(slopes.design_matrix, dtype=float)
    scales = tuple(
        1.0 if label == "Intercept" else _spread(column) for label, column in zip(terms, matrix.T, strict=True)
    )
    return Group(
        slug(factor), columns, tuple("1" if label == "Intercept" else label for label in terms), slopes, scales
    )


def _spread(values: Array) -> float:
    spread = float(values.std())
    return spread if spread > 0 else 1.0


def _labels(table: pd.DataFrame, columns: tuple[str, ...]) -> Any:
    """The level of each row, as a column of text, whose order is that of the alphabet or of the numbers."""
    parts = [table[name] for name in columns]
    if len(parts) == 1 and hasattr(parts[0].dtype, "categories"):
        return parts[0].cat.rename_categories([_label(one) for one in parts[0].cat.categories])
    text = parts[0].map(_label).astype(str)
    for part in parts[1:]:
        text = text + ":" + part.map(_label).astype(str)
    return text.rename(":".join(columns))


def _label(value: Any) -> str:
    """A level as text that nobody takes for a number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    return f"#{text}" if re.fullmatch(r"[-+.\d]+(e[-+]?\d+)?", text) else text


def _response(text: str, table: pd.DataFrame, whole: str) -> Response:
    found = _evaluated(f"{text} ~ 1", table, whole).response
    values = np.asarray(found.design_matrix, dtype=float)
    if found.kind == "proportion":
        return Response(text, slug(_proportion(text)[0]), None, True, values)
    levels = None
    if found.kind == "categoric" and values.ndim == 2:
        levels = tuple(map(str, found.levels))
        values = values.argmax(axis=1).astype(float)
    return Response(text, slug(text), levels, False, values)


def _proportion(text: str) -> tuple[str, str]:
    inner = text.partition("(")[2].rpartition(")")[0]
    successes, _, trials = inner.partition(",")
    return successes.strip(), trials.strip()


def _trials(text: str, table: pd.DataFrame) -> Array:
    values = table[text].to_numpy() if text in table.columns else np.full(len(table), float(text))
    return np.asarray(values, dtype=float)


def _coded(column: pd.Series, response: Response) -> Array:
    assert response.levels is not None
    places = {level: float(place) for place, level in enumerate(response.levels)}
    return np.array([places[str(one)] for one in column])
