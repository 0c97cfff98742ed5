"""Builds the loops in C, where there is a C compiler; without one numpy and torch do their work."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NOISE = Path("lepton_fl/privacy/kernels.c")
DENSE = Path("lepton_fl/training/bookkeeping/dense_kernels.c")
TILES = [Path("lepton_fl/training/cohort") / f"{name}.c" for name in ("products", "walk", "clipped")]
SOURCES = (NOISE, DENSE, *TILES)
# The same bits everywhere: no operation may be fused with another (see the source's head).
FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared"]
_FUSED = "-ffp-contract=fast"  # for sums that torch, too, adds up in an order of its own
# One copy of a loop for each width of registers, of which the loader takes the widest that the processor has; and a
# single one for a compiler, a processor or a loader that cannot.
_COPIES = (
    '-DEACH_WIDTH=__attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))',
    "-DLEPTON_COPIES",
)
_HAS_COPIES = platform.machine() in ("x86_64", "AMD64") and platform.libc_ver()[0] == "glibc"
VARIANTS = [*([[*_COPIES, "-mprefer-vector-width=512"], [*_COPIES]] if _HAS_COPIES else []), ["-DEACH_WIDTH="]]


def build(source: Path) -> Path | None:
    """The library beside its source; None where nothing can build it."""
    # Not by the module's own name: Python would take it for the module.
    library, made = source.with_name(f"lib{source.stem}.so"), source.with_name(f"lib{source.stem}.{os.getpid()}.so")
    digest = hashlib.sha256()
    for file in (source, *sorted(source.parent.glob("*.h"))):
        digest.update(file.read_bytes())
    for variant in VARIANTS:
        # The digest tells the program whether the library is of the source that lies beside it.
        is_fused = source.name in {one.name for one in TILES}
        names = [f'-DLEPTON_SOURCE="{digest.hexdigest()}"', *FLAGS, *([_FUSED] if is_fused else []), *variant]
        command = [os.environ.get("CC", "cc"), *names, str(source), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120)  # noqa: S603 - whoever builds chose it
        except (OSError, subprocess.SubprocessError):
            made.unlink(missing_ok=True)
            continue
        made.replace(library)  # a process that has the old one keeps it
        return library
    return None


class Kernels(BuildHookInterface):  # type: ignore[type-arg]
    """A wheel with the library is for one platform, and one without for all of them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling's build hooks."""
        made = [build(Path(self.root) / source) for source in SOURCES] if os.name == "posix" else [None]
        if None in made:
            self.app.display_warning("no C compiler: noise will be drawn by numpy, at a tenth of the speed")
            return
        build_data["artifacts"] += [f"/{library.relative_to(self.root).as_posix()}" for library in made if library]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    if None in [build(here / source) for source in SOURCES]:
        sys.exit("error: cc could not build the libraries; what was there is as it was; install a C compiler")
