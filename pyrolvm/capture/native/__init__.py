"""Captured potentials as compiled C, for samplers that call a function pointer."""

from pyrolvm.capture.native.gradient import NativeGradient, compile_gradient

__all__ = ["NativeGradient", "compile_gradient"]
