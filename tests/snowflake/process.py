"""`python -m tests.snowflake.process HOME LANDING [--setup MODULE:FUNCTION] -- ARGUMENTS`: `kurashiru` over a stand-in.

Here: a process of its own, which a test can kill and start again; what was committed stays in HOME.
Not here: settings; they come as environment variables (account.variables).
"""

import argparse
import importlib
import sys
from pathlib import Path

from kurashiru_pipeline import cli
from tests.snowflake.account import deployed


def main() -> None:
    """Run one command; FUNCTION gets the stand-in first, to register functions for instance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("landing", type=Path)
    parser.add_argument("--setup", default="")
    position = sys.argv.index("--")
    arguments = parser.parse_args(sys.argv[1:position])
    with deployed(arguments.home, arguments.landing) as account:
        if arguments.setup:
            module, _, function = arguments.setup.partition(":")
            getattr(importlib.import_module(module), function)(account)
        sys.argv = ["kurashiru", *sys.argv[position + 1 :]]
        cli.main()


if __name__ == "__main__":
    main()
