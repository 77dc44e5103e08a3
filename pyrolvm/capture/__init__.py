"""Pyro programs as pure graphs of tensor operations, and what runs such graphs."""

from pyrolvm.capture.graph import Captured, Noise, capture, with_noise

__all__ = ["Captured", "Noise", "capture", "with_noise"]
