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
