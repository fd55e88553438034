import sys

from fenchel.cli.bench import main

sys.exit(main())
