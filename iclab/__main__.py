"""`python -m iclab`: the command line where no script of it is on PATH."""

import sys

from iclab.cli import main

if __name__ == "__main__":
    sys.exit(main())
