"""Captured programs as compiled C: densities that samplers call by a function pointer, and whole steps of Adam."""

from pyrolvm.capture.native.density import NativeDensity, compile_density
from pyrolvm.capture.native.gradient import NativeGradient, compile_gradient
from pyrolvm.capture.native.steps import Moments, NativeSteps, compile_steps

__all__ = [
    "Moments", "NativeDensity", "NativeGradient", "NativeSteps", "compile_density", "compile_gradient", "compile_steps",
]  # fmt: skip
