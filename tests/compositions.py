"""The settings of `lepton-sim` as its YAML composes them, for tests of what is done with them."""

from __future__ import annotations

from functools import cache

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lepton_fl.config import config_dir, load
from lepton_fl.simulation import SimConfig, register_schemas


def sim_config(*overrides: str) -> SimConfig:
    """These settings, as dataclasses of one's own: what one test did to them no other sees."""
    return load(SimConfig, _composed(overrides))


@cache
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """Composed once, which takes a tenth of a second."""
    register_schemas()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("sim", overrides=list(overrides))
