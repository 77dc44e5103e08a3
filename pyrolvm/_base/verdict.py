"""Verdicts: may this posterior be used, why, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from pyrolvm._base.errors import ArgumentError

__all__ = ["Reason", "Status", "Verdict", "worst"]

Status = Literal["trusted", "doubtful", "failed"]

_ORDER: dict[str, int] = {"trusted": 0, "doubtful": 1, "failed": 2}
_SIGN: dict[str, str] = {"trusted": "ok", "doubtful": "??", "failed": "!!"}
_SIGNED = "display:inline-block;width:1.1em;margin-left:-1.1em"
_MARK: dict[str, str] = {"trusted": "\u2713", "doubtful": "?", "failed": "\u2717"}
_COLOUR: dict[str, str] = {"trusted": "#1b7f5c", "doubtful": "#b36b00", "failed": "#b3261e"}
"""Behind white letters."""
_SHADE: dict[str, str] = {"trusted": "#23906a", "doubtful": "#bd7a14", "failed": "#d6453b"}
"""On white and on black alike."""


def worst(statuses: Iterable[Status]) -> Status:
    """Return the gravest of the statuses, ``"trusted"`` where there are none."""
    return max(statuses, key=lambda status: _ORDER[status], default="trusted")


def _known(status: str) -> None:
    if status not in _ORDER:
        raise ArgumentError(
            f"Unknown verdict status {status!r}. Fix: use one of {', '.join(repr(name) for name in _ORDER)}."
        )


@dataclass(frozen=True, repr=False)
class Reason:
    """One finding about a posterior, with the figures it rests on.

    Args:
        status: the verdict this finding alone would give.
        text: the finding in plain words.
        figures: the numbers behind it, by name.
    """

    status: Status
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a status that is not one of the three."""
        _known(self.status)

    def __str__(self) -> str:
        """Return the finding with a two-letter sign in front."""
        return f"{_SIGN[self.status]}  {self.text}"

    def __repr__(self) -> str:
        return f"<{self.status}: {self.text}>"

    def as_dict(self) -> dict[str, object]:
        """Return the finding as JSON types."""
        return {"status": self.status, "text": self.text, "figures": dict(self.figures)}


@dataclass(frozen=True, repr=False)
class Verdict:
    """Whether a posterior may be used: ``trusted``, ``doubtful`` or ``failed``.

    A verdict is as bad as its worst reason, so good figures never outweigh a bad one.

    When not to trust it: a verdict reads draws and importance weights, not the truth. Importance weights cannot see a
    region of the posterior in which the guide never draws, and chains that all miss the same mode agree with each
    other. ``trusted`` means that every check which could be made was passed; it does not mean that the model is right.

    Args:
        status: the overall verdict.
        reasons: what it rests on.
        next_steps: what to do next, in plain words.
    """

    status: Status
    reasons: tuple[Reason, ...] = ()
    next_steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a verdict that is better than its worst reason."""
        _known(self.status)
        floor = worst(reason.status for reason in self.reasons)
        if _ORDER[self.status] < _ORDER[floor]:
            raise ArgumentError(
                f"A verdict of {self.status!r} has a reason that is {floor!r}. "
                "Fix: build it with Verdict.of(reasons), which takes the worst."
            )

    @classmethod
    def of(cls, reasons: Iterable[Reason], next_steps: Iterable[str] = ()) -> Verdict:
        """Build the verdict that the reasons add up to: the worst of them."""
        reasons = tuple(reasons)
        return cls(worst(reason.status for reason in reasons), reasons, tuple(dict.fromkeys(next_steps)))

    def and_also(self, other: Verdict) -> Verdict:
        """Return one verdict with the reasons and next steps of both, each once."""
        reasons = tuple({reason.text: reason for reason in self.reasons + other.reasons}.values())
        steps = tuple(dict.fromkeys(self.next_steps + other.next_steps))
        return Verdict(worst((self.status, other.status)), reasons, steps)

    @property
    def trusted(self) -> bool:
        """True where every check that could be made was passed."""
        return self.status == "trusted"

    @property
    def figures(self) -> dict[str, float]:
        """All figures of all reasons in one dict."""
        return {name: value for reason in self.reasons for name, value in reason.figures.items()}

    def __str__(self) -> str:
        """Return the verdict, its reasons and what to do next, a line each."""
        lines = [self.status, *(f"  {reason}" for reason in self.reasons), *(f"  ->  {s}" for s in self.next_steps)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return the status, and the first finding that is as bad as that, on one line."""
        grave = [reason.text for reason in self.reasons if reason.status == self.status]
        more = f" (and {len(grave) - 1} more)" if len(grave) > 1 else ""
        return f"<Verdict {self.status}{': ' if grave else ''}{grave[0] if grave else ''}{more}>"

    def _repr_html_(self) -> str:
        reasons = "".join(
            f'<li style="list-style:none"><b style="{_SIGNED};color:{_SHADE[reason.status]}">{_MARK[reason.status]}</b>'
            f"{ticked(reason.text)}</li>"
            for reason in self.reasons
        )
        steps = "".join(f"<li>{ticked(step)}</li>" for step in self.next_steps)
        todo = (
            f"<p style='margin:.4em 0 0'><b>What to do next</b></p><ul style='margin:.2em 0'>{steps}</ul>"
            if steps
            else ""
        )
        return f"<div>{badge(self.status)}<ul style='margin:.4em 0'>{reasons}</ul>{todo}</div>"

    def as_dict(self) -> dict[str, object]:
        """Return the verdict as JSON types."""
        return {
            "status": self.status,
            "reasons": [reason.as_dict() for reason in self.reasons],
            "next_steps": list(self.next_steps),
        }


def ticked(text: str) -> str:
    """Returns text as HTML, what stands between backticks as code."""
    parts = escape(text).split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))


def badge(status: Status) -> str:
    """Return the status as a coloured HTML label."""
    style = f"background:{_COLOUR[status]};color:#fff;border-radius:999px;padding:.1em .7em;font-weight:600;"
    style += "margin:.2em 0;display:inline-block;line-height:1.3"
    return f'<span style="{style}">{escape(status)}</span>'
