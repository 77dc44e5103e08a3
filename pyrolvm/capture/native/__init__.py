"""Captured programs as compiled C: densities that samplers call by a function pointer, and whole steps of Adam."""

from pyrolvm.capture.native.gradient import NativeGradient, compile_gradient
from pyrolvm.capture.native.steps import Moments, NativeSteps, compile_steps

__all__ = ["Moments", "NativeGradient", "NativeSteps", "compile_gradient", "compile_steps"]
