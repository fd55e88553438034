import sys

from fenchel.cli.reproduce import main

sys.exit(main())
