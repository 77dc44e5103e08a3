"""``python -m pyrolvm``: the command line without the console script."""

import sys

from pyrolvm._cli import main

if __name__ == "__main__":
    sys.exit(main())
