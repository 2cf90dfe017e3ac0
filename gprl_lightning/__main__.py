"""The commands around a run: ``python -m gprl_lightning COMMAND``. Training is ``train.py``.

Installed, two of them have names of their own: ``gprl-report`` and ``gprl-inspect``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from gprl_lightning.cli.console import be_patient
from gprl_lightning.errors import ConfigError

COMMANDS = {
    "report": "write the report of a run again, beside other runs, or the page of a grid",
    "baselines": "write the tables and the picture of grid=baselines",
    "laboratory": "keep the runs of grid=laboratory as small files, or write its page",
    "inspect": "show a logged group and derive its advantages again",
    "paper-table": "gather benchmarks by method beside the paper's figures",
    "check-data": "say what a file of pairs or prompts is read as",
}


def main() -> int:
    """Run the command that is named first; each lives in `gprl_lightning.cli`."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        print("usage: python -m gprl_lightning COMMAND …\n")
        print("\n".join(f"  {command:12} {what}" for command, what in COMMANDS.items()))
        return 0 if name in ("-h", "--help") else 2
    return run(name, arguments)


def run(command: str, arguments: Sequence[str]) -> int:
    """Run a command. Return its exit code: 2 for a mistake, told in one message."""
    be_patient()
    try:
        return import_module(f"gprl_lightning.cli.{command.replace('-', '_')}").main(arguments)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def report() -> int:
    """Run ``gprl-report``."""
    return run("report", sys.argv[1:])


def inspect() -> int:
    """Run ``gprl-inspect``."""
    return run("inspect", sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
