"""Symmetries of a posterior: label, sign and rotation symmetries of a program, and what follows for its draws."""

from pyrolvm._program.symmetry.layout import Layout
from pyrolvm._program.symmetry.record import SYMMETRY, Block, Symmetries, read_symmetries
from pyrolvm._program.symmetry.search import find_symmetries

__all__ = ["SYMMETRY", "Block", "Layout", "Symmetries", "find_symmetries", "read_symmetries"]
