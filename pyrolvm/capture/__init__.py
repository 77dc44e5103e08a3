"""Pyro programs as pure graphs of tensor operations, and what runs such graphs."""

from pyrolvm.capture.graph import Captured, Noise, capture, with_noise, with_step

__all__ = ["Captured", "Noise", "capture", "with_noise", "with_step"]
