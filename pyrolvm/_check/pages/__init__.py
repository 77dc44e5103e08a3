"""``report``: one page about any result."""

from pyrolvm._check.pages.inference import report

__all__ = ["report"]
