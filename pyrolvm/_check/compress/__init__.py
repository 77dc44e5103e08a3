"""Rows as few bits by a fitted model of them, without loss."""

from pyrolvm._check.compress.inference import compress, decompress

__all__ = ["compress", "decompress"]
