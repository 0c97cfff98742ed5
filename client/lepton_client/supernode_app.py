"""The ClientApp that Flower runs on a SuperNode, whose node config names the institution's home."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace

from lepton_client.supernode import Institution, refusing
from lepton_client.supernode_site import NAME, SuperNodeConfig, opened, register_schemas
from lepton_fl.config import compose
from lepton_fl.errors import ConfigError
from lepton_fl.flower import ClientApp, Context, Message
from lepton_fl.logs import set_up

HOME, SETTINGS = "lepton-home", "lepton-settings"  # in the node config, which the run has no say in
_WAIT_S = 300.0  # for another message of the same SuperNode to be answered


def site_settings(node_config: Mapping[str, object]) -> SuperNodeConfig:
    """What the institution says of itself in its SuperNode's node config.

    Raises:
        ConfigError: it names no home, or a setting that there is not.
    """
    home, settings = node_config.get(HOME, ""), node_config.get(SETTINGS, "")
    if not isinstance(home, str) or not isinstance(settings, str):
        raise ConfigError(f"{HOME} and {SETTINGS} must be texts in the node config; no record was read; correct them")
    try:
        overrides = shlex.split(settings)
    except ValueError as error:
        raise ConfigError(f"{SETTINGS} cannot be read ({error}); no record was read; correct its quotes") from error
    register_schemas()
    return replace(compose(SuperNodeConfig, NAME, overrides).settings, home=home)


def on_node(message: Message, context: Context) -> Message:
    """The institution's answer; a SuperNode that names none refuses."""
    with refusing(message) as refused:
        config = site_settings(context.node_config)
        set_up(config.log)
        with opened(config, _WAIT_S) as site:
            return Institution(site).answer(message)
    return refused[0]


client_app = ClientApp()
client_app.train()(on_node)
client_app.evaluate()(on_node)
client_app.query()(on_node)
