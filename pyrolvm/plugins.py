"""What distributions of other people register: rows of the table of methods, and what is known of their guides' families.

Problems and guides need nothing from here: they are functions that entry points name (docs/write-a-plugin.md).
"""

from pyrolvm._methods.table import Method
from pyrolvm.family.protocol import Hooks, Traits, traits

__all__ = ["Hooks", "Method", "Traits", "traits"]
