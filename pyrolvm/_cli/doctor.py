"""``pyrolvm doctor``: is everything here that pyrolvm needs, and does it work?"""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata

from pyrolvm._base.machine import available
from pyrolvm._capture import selfcheck
from pyrolvm._cli.catalogue import SHELVES
from pyrolvm._cli.output import Output
from pyrolvm._cli.signals import Stopped

__all__ = ["Check", "run"]

_MODULES = {"pyro-ppl": "pyro", "scikit-learn": "sklearn"}
_OWN = "pyrolvm"
_OURS = ("problem", "guide")
"""What this distribution registers itself."""


@dataclass(frozen=True)
class Check:
    """One thing looked at: ``state`` is ``ok``, ``note`` or ``broken``; only what is required can be broken."""

    what: str
    state: str
    found: str


def run(args: argparse.Namespace, out: Output, stopped: Stopped) -> int:
    """Runs ``doctor``; returns 1 where something required is broken."""
    checks = [*_system(), *_packages(), *_engines(), *_devices(), _arviz(), *_plugins()]
    out.table([[check.what, check.state, check.found] for check in checks], ["what", "state", "found"])
    broken = [check for check in checks if check.state == "broken"]
    for check in broken:
        out.line(f"broken: {check.what}: {check.found}", style="red")
    told = [check for check in broken if "Fix:" in check.found]
    if not broken:
        out.next(["pyrolvm compare eight_schools"])
    elif len(told) < len(broken):
        out.next(["pip install --force-reinstall pyrolvm"])
    out.write_json({"command": "doctor", "broken": len(broken), "checks": [asdict(check) for check in checks]})
    return int(bool(broken))


def _tried(what: str, look: Callable[[], str], *, required: bool = True) -> Check:
    """Runs one check; whatever it raises is the finding."""
    try:
        return Check(what, "ok", look())
    except Exception as error:
        return Check(what, "broken" if required else "note", f"{type(error).__name__}: {error}")


def _system() -> Iterator[Check]:
    old = sys.version_info < (3, 11)
    yield Check("python", "broken" if old else "ok", platform.python_version() + (" (needs 3.11)" if old else ""))
    yield Check("platform", "ok", platform.platform())
    # Only these may be used, whatever the machine has.
    usable = available()
    yield Check("processors", "ok", f"{usable} usable of {os.cpu_count()}")


def _engines() -> Iterator[Check]:
    """Every engine on a trivial program: an installation that has all packages may still run none."""
    for part, told in selfcheck.PARTS.items():
        cause = selfcheck.fault(part)
        yield Check(told.name, "broken" if cause else "ok", selfcheck.warning(part, cause) if cause else told.tried)


def _packages() -> Iterator[Check]:
    """Every required package, imported: an installed one may still be broken."""
    required = [line for line in metadata.requires(_OWN) or [] if "extra ==" not in line]
    # One package may be required twice, with another range for another Python.
    for package in dict.fromkeys(re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0] for line in required):
        yield _tried(package, partial(_imported, package))


def _imported(package: str) -> str:
    version = metadata.version(package)
    import_module(_MODULES.get(package, package.replace("-", "_")))
    return version


def _devices() -> Iterator[Check]:
    yield _tried("torch devices", _torch_devices)
    yield _tried("jax devices", _jax_devices)


def _torch_devices() -> str:
    import torch

    cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(["cpu", *cuda]) + f"; {torch.get_num_threads()} threads"


def _jax_devices() -> str:
    import jax

    return ", ".join(str(device) for device in jax.devices())


def _arviz() -> Check:
    return _tried("ArviZ API", _arviz_api)


def _arviz_api() -> str:
    version = metadata.version("arviz")
    if int(version.partition(".")[0]) >= 1:
        return f"{version}: import arviz as az"
    import_module("arviz.preview")
    return f"{version}: import arviz.preview as az"


def _plugins() -> Iterator[Check]:
    for shelf in SHELVES:
        kind, rows = shelf.kind.word, shelf.rows()
        for row in rows:
            if row["broken"]:
                # A stranger's plugin may be broken without harm to anything else; our own may not.
                yield Check(f"{kind} {row['name']}", "broken" if row["distribution"] == _OWN else "note", row["broken"])
        origins = sorted({str(row["distribution"]) for row in rows})
        missing = not rows and kind in _OURS
        yield Check(f"{kind}s", "broken" if missing else "ok", f"{len(rows)} from {', '.join(origins) or 'nowhere'}")
