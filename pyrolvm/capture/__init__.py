"""Pyro programs as pure graphs of tensor operations, and what runs such graphs."""

from pyrolvm.capture.graph import Captured, Noise, Path, capture, capture_path, with_noise, with_step

__all__ = ["Captured", "Noise", "Path", "capture", "capture_path", "with_noise", "with_step"]
