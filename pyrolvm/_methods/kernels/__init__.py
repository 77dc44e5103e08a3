"""Many short chains side by side, by BlackJAX's kernels on the captured density: ``lvm.sample``."""

from pyrolvm._methods.kernels.inference import sample

__all__ = ["sample"]
