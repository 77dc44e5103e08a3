"""``python -m pyrolvm`` and the console script: the command line in a process of its own."""

import gc
import sys

from pyrolvm import _cli

__all__ = ["main"]

_COLLECTED_AFTER = 10_000
"""Objects made and not yet gone after which garbage is looked for. Packages that a command imports are a million objects that stay, and
Python's own 700 make a sixth of a short command's seconds a search through them."""


def main() -> int:
    """Runs the command that the process was asked for; returns its exit code."""
    if gc.isenabled():
        gc.set_threshold(_COLLECTED_AFTER, 20, 20)
    return _cli.main()


if __name__ == "__main__":
    sys.exit(main())
