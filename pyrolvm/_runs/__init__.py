"""Runs in folders: one that is killed at any moment can be gone on with, and nothing that is not ours is touched.

What the rest of the package takes from here: :func:`run` and :func:`save` with :func:`order` and :class:`Codec`, which say how a result
of a kind is kept; :class:`Run`, what a run under way writes into; :func:`verified` and the readers, for what is on disk.
"""

from pyrolvm._runs.checkpoints import Checkpoints
from pyrolvm._runs.directory import Write
from pyrolvm._runs.files import Part, Stored, as_json, bundled, steady, verified
from pyrolvm._runs.folder import is_free, is_run
from pyrolvm._runs.identity import ANY_VERSION
from pyrolvm._runs.layout import MANIFEST, MARKER, Manifest, unfinished
from pyrolvm._runs.packing import write_tensors
from pyrolvm._runs.places import as_folder
from pyrolvm._runs.runner import Codec, Order, Run, order, run, save, write_pages

__all__ = [
    "ANY_VERSION", "MANIFEST", "MARKER", "Checkpoints", "Codec", "Manifest", "Order", "Part", "Run", "Stored", "Write",
    "as_folder", "as_json", "bundled", "is_free", "is_run", "order", "run", "save", "steady", "unfinished", "verified",
    "write_pages", "write_tensors",
]  # fmt: skip
