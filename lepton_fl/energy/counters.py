"""Hardware counters of joules: RAPL for the processor's packages, NVML for a GPU. Where there are none, there are none.

RAPL counts a whole package and NVML a whole GPU, everything that ran there beside this process included: it is never
too little, and on a shared machine it is too much.

Source: Linux, Documentation/power/powercap/powercap.rst; NVIDIA, NVML API reference,
nvmlDeviceGetTotalEnergyConsumption (millijoules since the driver was loaded, Volta and later).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
_LARGEST_DOMAIN_W = 1000.0  # that one domain can draw, for how long its counter stays below one turn


@dataclass(frozen=True)
class Domain:
    """One counter, as it was read."""

    microjoules: int
    range_microjoules: int  # the counter goes back to 0 after it; 0: never

    def joules_until(self, later: Domain, seconds: float) -> float | None:
        """Joules from this reading to a later one; None where the counter did not move, or may have gone round twice.

        Args:
            seconds: between the two readings.
        """
        moved, most = later.microjoules - self.microjoules, self.range_microjoules
        if most and seconds * _LARGEST_DOMAIN_W * 1e6 >= most:
            return None
        if moved < 0:
            moved += most
        return moved / 1e6 if moved > 0 else None


def rapl(folder: Path = POWERCAP) -> Mapping[str, Domain] | None:
    """Every package and its memory, by the name of its folder; None where this machine shows none or hides one.

    Zones inside a package (cores, graphics) are part of its counter and are left out; `psys` counts packages again.
    """
    found = {}
    for zone in sorted(folder.glob("intel-rapl:*")):  # so called on AMD too
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if name.startswith("package") or name == "dram":
                found[zone.name] = Domain(_number(zone / "energy_uj"), _number(zone / "max_energy_range_uj"))
        except (OSError, ValueError):
            return None
    return found or None


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


class Nvml:
    """One GPU's counter."""

    def __init__(self, library: Any, device: Any) -> None:
        self._library, self._device = library, device

    def read(self) -> Domain | None:
        """The counter now; None where this GPU has none."""
        millijoules = ctypes.c_ulonglong()
        if self._library.nvmlDeviceGetTotalEnergyConsumption(self._device, ctypes.byref(millijoules)) != 0:
            return None
        return Domain(int(millijoules.value) * 1000, 0)


def nvml(uuid: str, library: str = "libnvidia-ml.so.1") -> Nvml | None:
    """The counter of this GPU; None without the driver's library, this GPU in it, or a counter on it.

    Args:
        uuid: as NVML has it, `GPU-` and 36 letters: a number of CUDA's may mean another GPU.
    """
    try:
        loaded = ctypes.CDLL(library)
        device = ctypes.c_void_p()
        if loaded.nvmlInit_v2() != 0:
            return None
        if loaded.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(device)) != 0:
            return None
        found = Nvml(loaded, device)
        return found if found.read() is not None else None
    except (OSError, AttributeError):
        return None
