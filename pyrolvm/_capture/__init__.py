"""Pyro programs as pure graphs of tensor operations, and what runs such graphs."""

from pyrolvm._capture.capturing import capture, capture_path
from pyrolvm._capture.gammas import with_gammas
from pyrolvm._capture.graph import Captured, Noise, Path, with_noise, with_step

__all__ = ["Captured", "Noise", "Path", "capture", "capture_path", "with_gammas", "with_noise", "with_step"]
