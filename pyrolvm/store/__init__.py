"""What is on disk of a result: which files, and how each is written and read.

Nothing is unpickled, and no file names anything to import.
"""

from pyrolvm.store.identity import describe, identity
from pyrolvm.store.results import bundle, check_types, codec, is_partial, load, save, write_tree

__all__ = [
    "bundle", "check_types", "codec", "describe", "identity", "is_partial", "load", "save", "write_tree",
]  # fmt: skip
