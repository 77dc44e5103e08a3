"""What a guide with local latents loses: the approximation gap, the amortisation gap, and collapsed units."""

from pyrolvm._check.gaps.inference import gaps
from pyrolvm._check.gaps.result import Collapse, Gaps

__all__ = ["Collapse", "Gaps", "gaps"]
