import sys

from fenchel.cli.report import main

sys.exit(main())
