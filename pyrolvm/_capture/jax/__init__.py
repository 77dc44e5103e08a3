"""Captured graphs on JAX: an interpreter, and one small rule for each operation."""

from pyrolvm._capture.jax.compiling import QUICK, UNFUSED, compiled
from pyrolvm._capture.jax.interpreter import Lowered, array, lower, missing, tensor
from pyrolvm._capture.jax.isolation import device_of, precision

__all__ = ["QUICK", "UNFUSED", "Lowered", "array", "compiled", "device_of", "lower", "missing", "precision", "tensor"]
