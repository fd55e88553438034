import sys

from fenchel.cli.run import main

sys.exit(main())
