"""Captured programs as compiled C: densities that samplers call by a function pointer, and whole steps of Adam."""

from pyrolvm._capture.native.density import NativeDensity, compile_density
from pyrolvm._capture.native.gradient import NativeGradient, compile_gradient
from pyrolvm._capture.native.rows import NativeRows, compile_rows
from pyrolvm._capture.native.steps import Moments, NativeSteps, compile_steps

__all__ = [
    "Moments", "NativeDensity", "NativeGradient", "NativeRows", "NativeSteps", "compile_density", "compile_gradient", "compile_rows",
    "compile_steps",
]  # fmt: skip
