"""argparse whose refusals are ours: one sentence on stderr, exit status 2, no usage dump."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from fenchel.cli import guarded
from fenchel.errors import UserError


class Parser(argparse.ArgumentParser):
    def __init__(self, **options):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see --help.")


def run(body: Callable[[argparse.Namespace], int], parser: Parser, argv: Sequence[str] | None) -> int:
    """Parse and run `body`, guarded."""
    return guarded(lambda: body(parser.parse_args(None if argv is None else list(argv))))
