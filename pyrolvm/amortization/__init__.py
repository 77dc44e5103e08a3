"""What a guide with local latents loses: the approximation gap, the amortisation gap, and collapsed units."""

from pyrolvm.amortization.inference import gaps
from pyrolvm.amortization.result import Collapse, Gaps

__all__ = ["Collapse", "Gaps", "gaps"]
