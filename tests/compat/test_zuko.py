"""zuko switches the checks of all distributions off as it is imported; models that use it leave them as they were."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("checked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_models_with_flows_leave_the_checks_of_distributions_alone(checked: bool) -> None:
    text = (
        "import sys, pyro\n"
        f"pyro.settings.set(validate_distributions_torch={checked})\n"
        "import pyrolvm_models.invertible.elements, pyrolvm_models.invertible.moves, pyrolvm_models.autoregressive\n"
        f"sys.exit('zuko' not in sys.modules or pyro.settings.get('validate_distributions_torch') is not {checked})\n"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0
