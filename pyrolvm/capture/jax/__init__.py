"""Captured graphs on JAX: an interpreter, and one small rule for each operation."""

from pyrolvm.capture.jax.interpreter import Lowered, array, lower, precision, tensor

__all__ = ["Lowered", "array", "lower", "precision", "tensor"]
