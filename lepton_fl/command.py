"""What the commands share: one-line argument errors, and `--home` as a setting."""

from __future__ import annotations

import argparse
from typing import NoReturn

from lepton_fl.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a usage."""
        raise ConfigError(f"{message}; nothing was done; {self.prog.split()[0]} --help has examples")


def help_of(text: str, command: str) -> str:
    """The part of a program's help that is about one verb, say `lepton-client ledger`; all of it if nothing is."""
    found: list[str] = []
    is_about = False
    for line in text.splitlines(keepends=True):
        if line.startswith("  ") and not line.startswith("   "):
            is_about = line.split()[:2] == command.split()
        elif not line.startswith(" "):
            is_about = False
        if is_about:
            found.append(line)
    return "".join(found) or text


def home_as_setting(arguments: list[str]) -> list[str]:
    """`--home DIR` becomes `home=DIR`, which Hydra understands."""
    out, waiting = [], iter(arguments)
    for argument in waiting:
        name, has_value, value = argument.partition("=")
        if name != "--home":
            out.append(argument)
            continue
        folder = value if has_value else next(waiting, None)
        if not folder:
            raise ConfigError("--home needs a folder; nothing was done; --help has examples")
        out.append(f"home='{folder}'")
    return out
