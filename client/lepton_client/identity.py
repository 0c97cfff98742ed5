"""This institution's identity in secure aggregation: an Ed25519 key that is born here and never leaves.

It is not the key of the certificate: the operator's CA decides whose certificate holds, and must not decide whose masks
do. A contract pins the public keys of all institutions, and people can compare their fingerprints by telephone.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from lepton_client.home import Home
from lepton_fl.errors import ConfigError
from lepton_fl.files import write_secret
from lepton_fl.link import signature
from lepton_fl.secure_aggregation.keys import Identity
from lepton_fl.v1 import federation_pb2 as wire

_BYTES = 32


def identity_of(home: Home) -> Identity:
    """The home's key; made here, mode 0600, when it is first asked for.

    Raises:
        ConfigError: others can read it, or it is damaged.
    """
    path = home.path / "identity.key"
    if not path.exists():
        write_secret(path, Identity.generate(os.urandom).secret_bytes().hex().encode() + b"\n")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"the key {path} can be read by others (mode {mode:04o}); nothing was sent; chmod 600 it")
    return _read(path)


def _read(path: Path) -> Identity:
    try:
        return Identity.from_bytes(bytes.fromhex(path.read_text().strip()))
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not a key; nothing was sent; restore it from a backup, or move it away to get another, which "
            "the other institutions then have to be told of"
        ) from error


def announced(home: Home, identity: Identity) -> wire.Identity:
    """As the operator hears of it: signed by the key of this institution's certificate."""
    signed = signature.signer(home.key, home.certificate).sign(signature.IDENTITY, identity.public)
    return wire.Identity(
        public_key=identity.public, signature=wire.Signature(certificate=signed.certificate, value=signed.value)
    )
