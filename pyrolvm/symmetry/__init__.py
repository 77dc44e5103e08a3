"""Symmetries of a posterior: label, sign and rotation symmetries of a program, and what follows for its draws."""

from pyrolvm.symmetry.layout import Layout
from pyrolvm.symmetry.record import SYMMETRY, Block, Symmetries, read_symmetries
from pyrolvm.symmetry.search import find_symmetries

__all__ = ["SYMMETRY", "Block", "Layout", "Symmetries", "find_symmetries", "read_symmetries"]
