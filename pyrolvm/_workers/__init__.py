"""Work shared out over processes: of this machine, or of a Dask or Ray cluster."""

from pyrolvm._workers.driver import Lost, run
from pyrolvm._workers.local import Local
from pyrolvm._workers.package import Unfit, packed, unpacked
from pyrolvm._workers.pools import Pool, open_pool

__all__ = ["Local", "Lost", "Pool", "Unfit", "open_pool", "packed", "run", "unpacked"]
