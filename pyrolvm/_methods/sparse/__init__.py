"""Posteriors of many unknowns by the program's own structure: blocks integrated out, what they share weighed."""

from pyrolvm._methods.sparse.inference import sparse
from pyrolvm._methods.sparse.result import Sparse

__all__ = ["Sparse", "sparse"]
