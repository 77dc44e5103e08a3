"""BlackJAX, an optional library: which releases are known to work, and what is missing where one does not."""

from __future__ import annotations

from typing import Any

__all__ = ["WANTED", "fault", "installed"]

WANTED = "blackjax>=1.7"

_PARTS = ("adjusted_mclmc_dynamic", "mclmc", "dynamic_hmc", "ghmc", "barker", "chees_adaptation", "meads_adaptation")


def installed() -> Any:
    """BlackJAX itself (BlackJAX 1.7.1)."""
    import blackjax

    return blackjax


def fault() -> str | None:
    """Why BlackJAX cannot be used; ``None`` if it can (BlackJAX 1.7.1)."""
    try:
        found = installed()
    except ImportError as error:
        return f"BlackJAX cannot be imported: {error}"
    absent = [name for name in _PARTS if not hasattr(found, name)]
    return f"BlackJAX {found.__version__} has no {', '.join(absent)}" if absent else None
