"""A record of errors that are no error to the user: those of a way that is tried first, and of another that then does it."""

from __future__ import annotations

import logging

__all__ = ["passed_over"]


def passed_over(why: str) -> None:
    """Records the exception that is being handled, in the log of ``pyrolvm`` at level DEBUG, with its traceback.

    Args:
        why: why it is none to the user.

    Example:
        >>> import logging
        >>> logging.getLogger("pyrolvm").setLevel(logging.DEBUG)  # and logging.basicConfig(), to read them on stderr
    """
    logging.getLogger("pyrolvm").debug("passed over: %s", why, exc_info=True)
