"""Entry point: ``python main.py --config-file configs/inverted_pendulum.yaml``."""

import sys

from mbrl.cli import main

if __name__ == "__main__":
    sys.exit(main())
