"""The command line: `fenchel run|verify|reproduce|data|report|bench`."""
