"""The command line: `fenchel run|verify|reproduce|data|report|bench`, and the mains of scripts/."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

# command -> (module, one line)
COMMANDS = {
    "run": ("run", "train a learner on a task"),
    "verify": ("verify", "check the papers' claims against exact answers"),
    "reproduce": ("reproduce", "run the recorded demonstration of a method"),
    "data": ("data", "build a native data set, or convert one"),
    "report": ("report", "tables and learning curves of run folders"),
    "bench": ("bench", "speed and memory"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print("\n".join(f"fenchel {name:10} {about}" for name, (_, about) in COMMANDS.items()))
        return 0
    if words[0] not in COMMANDS:
        from fenchel.errors import unknown

        print(unknown("command", words[0], COMMANDS), file=sys.stderr)
        return 2
    return import_module(f"fenchel.cli.{COMMANDS[words[0]][0]}").main(words[1:])


def guarded(body: Callable[[], int]) -> int:
    """Run a command: a refusal is one sentence and status 2, Ctrl-C is 130, a reader that has gone ends it quietly."""
    from fenchel.errors import UserError

    try:
        return body()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as in `| head`; what is left in the buffer must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
