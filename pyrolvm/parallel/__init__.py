"""Work shared out over processes: of this machine, or of a Dask or Ray cluster."""

from pyrolvm.parallel.driver import Lost, run
from pyrolvm.parallel.local import Local
from pyrolvm.parallel.package import Unfit, packed, unpacked
from pyrolvm.parallel.pools import Pool, open_pool

__all__ = ["Local", "Lost", "Pool", "Unfit", "open_pool", "packed", "run", "unpacked"]
