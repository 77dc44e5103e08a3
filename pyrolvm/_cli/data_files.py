"""How files of data are taken, and what stands for values in them that are no numbers."""

from __future__ import annotations

from pyrolvm._base.errors import DataError
from pyrolvm._runs.readers import Manner

__all__ = ["DATA", "Refused"]

DATA = Manner(DataError, "data file ", "mend it, or save it again", follow=True, fault="cannot be read")
"""Files that are named by whoever gives the command, and may be links."""


class Refused:
    """A value that cannot be used: no fault while no model asks for it."""

    def __init__(self, message: str) -> None:
        self.message = message
