import sys

from fenchel.cli.verify import main

sys.exit(main())
