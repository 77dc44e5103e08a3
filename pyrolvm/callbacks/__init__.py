"""What looks on while ``lvm.fit`` takes its steps: ``lvm.fit(problem, callbacks=[lvm.callbacks.SampleGrid("pictures")])``.

A callback is a function of a ``Step``: its number, loss, learning rate and parameters. One with an attribute ``every`` is called
every so many steps, between which compiled engines take theirs at once.
"""

from pyrolvm.callbacks.grid import SampleGrid
from pyrolvm.callbacks.tensorboard import TensorBoard
from pyrolvm.callbacks.trackers import MLflow, WandB

__all__ = ["MLflow", "SampleGrid", "TensorBoard", "WandB"]
