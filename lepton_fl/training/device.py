"""Where an institution computes: its own choice, never the operator's, and never a change of the promise.

Sampling and noise are drawn on the CPU wherever the model is, so a GPU changes speed and rounding alone. A seeded
run on a GPU therefore agrees with one on the CPU closely, not bit for bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from lepton_fl.errors import ConfigError

_FORM = re.compile(r"cpu|auto|cuda(?::(0|[1-9]\d{0,3}))?")


@dataclass(frozen=True)
class Seen:
    """A device that torch can compute on."""

    name: str  # as `device=` takes it
    model: str
    memory_bytes: int | None  # of the device itself; None where the system does not tell

    def __str__(self) -> str:
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.1f} GiB"
        return f"{self.name} ({self.model}{memory})"


def choose(name: str, gpus: int | None = None) -> torch.device:
    """The device that `device=` names; `auto` is the first GPU, else the CPU.

    Args:
        name: cpu, cuda, cuda:N or auto.
        gpus: how many there are to choose from; None: as many as torch sees.

    Raises:
        ConfigError: another name, or a GPU that is not there; a run never falls back to another device by itself.
    """
    form = _FORM.fullmatch(name)
    if form is None:
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, got {name[:40]}; nothing was trained; correct it")
    if name == "cpu":
        return torch.device("cpu")
    count = gpus_seen() if gpus is None else gpus
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    number = int(form[1] or 0)
    if number >= count:
        there = {0: "no GPU", 1: "one GPU, cuda:0"}.get(count, f"{count} GPUs, cuda:0 to cuda:{count - 1}")
        raise ConfigError(f"device={name} and torch sees {there}; nothing was trained; choose device=cpu")
    return torch.device("cuda", number)


def gpus_seen() -> int:
    """How many GPUs torch can use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def devices_seen() -> list[Seen]:
    """The CPU, then every GPU."""
    found = [Seen("cpu", f"{torch.get_num_threads()} threads", _memory_bytes())]
    for number in range(gpus_seen()):
        gpu = torch.cuda.get_device_properties(number)
        found.append(Seen(f"cuda:{number}", gpu.name, gpu.total_memory))
    return found


def describe(device: torch.device) -> str:
    """The device with its model and memory, for people."""
    return next(str(seen) for seen in devices_seen() if seen.name == str(device))


def gpu_uuid(device: torch.device) -> str | None:
    """The GPU's name for counters, whatever number it has here; None for the CPU."""
    if device.type != "cuda":
        return None
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def device_of(model: nn.Module) -> torch.device:
    """Where the model is, and where its batches must be."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def layers_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Layers that draw (dropout) draw from this seed inside; torch's own generators are as before afterwards."""
    gpus = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus, device_type="cuda"):
        torch.default_generator.manual_seed(seed)
        for number in gpus:
            with torch.cuda.device(number):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions on a GPU keep float32's 24 bits and repeat themselves inside; the CPU does so anyway.

    cuDNN would round to 10 bits (TF32) and pick algorithms by trial, so that a record could move another's
    gradient by far more than `noise.clip_target` sets aside.
    """
    if device.type == "cpu":
        yield
        return
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
