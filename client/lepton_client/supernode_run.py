"""`lepton-client supernode`: answer what a SuperNode on this machine brings, with installed code alone."""

from __future__ import annotations

import logging
import signal
from types import FrameType

from lepton_client.supernode import Institution
from lepton_client.supernode_site import SuperNodeConfig, opened
from lepton_fl.flower_node import serve
from lepton_fl.logs import set_up

_log = logging.getLogger(__name__)


def run(config: SuperNodeConfig) -> None:
    """One `lepton-client supernode`: until SIGTERM or Ctrl-C."""
    set_up(config.log)
    signal.signal(signal.SIGTERM, _stop)
    with opened(config, wait_s=0.0) as site:
        _log.info("%s answers what the SuperNode at %s brings", site.home.institution, config.runtime)
        serve(config.runtime, Institution(site).answer)


def _stop(number: int, frame: FrameType | None) -> None:
    _log.info("stopped; a round that was begun is spent")
    raise SystemExit(0)
