"""Entry point: ``python main.py --config-file configs/inverted_pendulum.yaml``."""

import sys

if __name__ == "__main__":
    try:
        from mbrl.cli import main
    except KeyboardInterrupt:  # libraries take seconds to import
        sys.exit(130)
    sys.exit(main())
