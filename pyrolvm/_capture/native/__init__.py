"""Captured programs as compiled C: densities that samplers call by a function pointer, and whole steps of Adam."""

from pyrolvm._capture.native.density import NativeDensity, compile_density
from pyrolvm._capture.native.gradient import NativeGradient, compile_gradient
from pyrolvm._capture.native.steps import Moments, NativeSteps, compile_steps

__all__ = [
    "Moments", "NativeDensity", "NativeGradient", "NativeSteps", "compile_density", "compile_gradient", "compile_steps",
]  # fmt: skip
