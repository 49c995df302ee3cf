"""`python -m lmft` is `lmft`."""

import sys

from lmft.cli import main

sys.exit(main())
