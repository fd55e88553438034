import sys

from fenchel.cli.data import main

sys.exit(main())
