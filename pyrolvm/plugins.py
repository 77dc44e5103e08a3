"""What distributions of other people build on, beside the public names of pyrolvm: what a plugin of each kind is.

Problems and guides need nothing from here: they are functions that entry points name. A name is imported when it is asked for, so that
a plugin's row of the table of methods, or its command, costs the command line nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Command": "_base.commands",
    "Diagnostic": "_diagnosis.registered",
    "Engine": "_methods.fit.engines",
    "Hooks": "family.protocol",
    "MakeEngine": "_methods.fit.engines",
    "Method": "_methods.table",
    "Output": "_base.commands",
    "PureELBO": "_methods.fit.objectives",
    "Reason": "_base.verdict",
    "Taken": "_results.history",
    "Traits": "family.protocol",
    "Work": "_methods.fit.engines",
    "traits": "family.protocol",
}

__all__ = [*_HOME]

if TYPE_CHECKING:
    from pyrolvm._base.commands import Command as Command
    from pyrolvm._base.commands import Output as Output
    from pyrolvm._base.verdict import Reason as Reason
    from pyrolvm._diagnosis.registered import Diagnostic as Diagnostic
    from pyrolvm._methods.fit.engines import Engine as Engine
    from pyrolvm._methods.fit.engines import MakeEngine as MakeEngine
    from pyrolvm._methods.fit.engines import Work as Work
    from pyrolvm._methods.fit.objectives import PureELBO as PureELBO
    from pyrolvm._methods.table import Method as Method
    from pyrolvm._results.history import Taken as Taken
    from pyrolvm.family.protocol import Hooks as Hooks
    from pyrolvm.family.protocol import Traits as Traits
    from pyrolvm.family.protocol import traits as traits


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'pyrolvm.plugins' has no attribute {name!r}")
    value = getattr(import_module(f"pyrolvm.{_HOME[name]}"), name)
    globals()[name] = value
    return value
