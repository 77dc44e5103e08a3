"""zuko, imported without what it does to everybody: it switches the checks of all distributions off, as it is imported."""

from __future__ import annotations

import pyro

_CHECKED = pyro.settings.get("validate_distributions_torch")
try:
    import zuko
    from zuko.transforms import MonotonicRQSTransform
finally:
    pyro.settings.set(validate_distributions_torch=_CHECKED)

__all__ = ["MonotonicRQSTransform", "zuko"]
