"""`python -m simpletuner_twinflow.cli`, the same as the console script."""

import sys

from simpletuner_twinflow.cli import main

sys.exit(main())
