"""``pyrolvm doctor``: is everything here that pyrolvm needs, and does it work?

Everything that fits are run by is tried on a trivial program. Of packages it is asked whether they are there in a release that pyrolvm
takes; ``--thorough`` imports each of them, and every registered name.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, metadata, util

from pyrolvm._base.errors import ArgumentError
from pyrolvm._base.machine import available
from pyrolvm._base.programs import programs
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
    if args.clear_cache:
        return _cleared(out)
    thorough: bool = args.thorough
    checks = [
        *_system(), _cache(), *_packages(thorough), *_engines(thorough), *_devices(), _arviz(thorough), *_plugins(thorough)
    ]  # fmt: skip
    out.table([[check.what, check.state, check.found] for check in checks], ["what", "state", "found"])
    broken = [check for check in checks if check.state == "broken"]
    for check in broken:
        out.line(f"broken: {check.what}: {check.found}", style="red")
    told = [check for check in broken if "Fix:" in check.found]
    if not broken:
        further = [] if thorough else ["pyrolvm doctor --thorough    (imports every package, sampler and plugin)"]
        out.next(["pyrolvm compare eight_schools", *further])
    elif len(told) < len(broken):
        out.next(["pip install --force-reinstall pyrolvm"])
    out.write_json({"command": "doctor", "broken": len(broken), "checks": [asdict(check) for check in checks]})
    return int(bool(broken))


def _cleared(out: Output) -> int:
    kept = programs()
    fault = kept.fault()
    if kept.folder is None or fault is not None:
        raise ArgumentError(
            f"there is no cache of compiled programs to clear: {fault}. Fix: name a folder of yours in PYROLVM_CACHE, or remove "
            f"{str(kept.folder) if kept.folder else 'nothing'} yourself."
        )
    was = kept.clear()
    out.line(f"removed {was.number} compiled programs, {_size(was.size)}, from {kept.folder}")
    out.write_json({"command": "doctor", "removed": was.number, "bytes": was.size})
    return 0


def _cache() -> Check:
    """Where compiled programs are kept; a folder that is not used is no harm but time."""
    kept = programs()
    fault = kept.fault()
    if fault is not None:
        return Check("compiled programs", "note", f"not kept: {fault}" + (f" ({kept.folder})" if kept.folder else ""))
    found = kept.kept()
    return Check(
        "compiled programs",
        "ok",
        f"{found.number} in {kept.folder}, {_size(found.size)} of at most {_size(kept.limit)}",
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"


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


def _engines(thorough: bool) -> Iterator[Check]:
    """Every engine on a trivial program: an installation that has all packages may still run none."""
    from pyrolvm._capture import selfcheck

    for part, told in selfcheck.PARTS.items():
        if not thorough and not told.quick:
            continue
        cause = selfcheck.fault(part)
        yield Check(told.name, "broken" if cause else "ok", selfcheck.warning(part, cause) if cause else told.tried)


def _packages(thorough: bool) -> Iterator[Check]:
    """Every required package: whether it is there, in a release that is taken, and with ``thorough`` whether it can be imported."""
    from packaging.requirements import Requirement

    for line in metadata.requires(_OWN) or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            yield _tried(wanted.name, partial(_imported if thorough else _present, wanted.name, str(wanted.specifier)))


def _imported(package: str, wanted: str) -> str:
    import_module(_module(package))
    return _present(package, wanted)


def _present(package: str, wanted: str) -> str:
    from packaging.specifiers import SpecifierSet

    version = metadata.version(package)
    if util.find_spec(_module(package)) is None:
        raise ModuleNotFoundError(f"version {version} is installed, and its module {_module(package)!r} is not there")
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        raise ImportError(
            f"version {version} is installed, and {wanted} is taken. Fix: pip install '{package}{wanted}'"
        )
    return version


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))


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


def _arviz(thorough: bool) -> Check:
    return _tried("ArviZ API", partial(_arviz_api, thorough))


def _arviz_api(thorough: bool) -> str:
    version = metadata.version("arviz")
    module = "arviz" if int(version.partition(".")[0]) >= 1 else "arviz.preview"
    if thorough:
        import_module(module)
    return f"{version}: import {module} as az"


def _plugins(thorough: bool) -> Iterator[Check]:
    for shelf in SHELVES:
        kind, rows = shelf.kind.word, shelf.rows(imported=thorough)
        for row in rows:
            if row["broken"]:
                # A stranger's plugin may be broken without harm to anything else; our own may not.
                yield Check(f"{kind} {row['name']}", "broken" if row["distribution"] == _OWN else "note", row["broken"])
        origins = sorted({str(row["distribution"]) for row in rows})
        missing = not rows and kind in _OURS
        yield Check(f"{kind}s", "broken" if missing else "ok", f"{len(rows)} from {', '.join(origins) or 'nowhere'}")
