"""The operator's home: the CA, the server's certificate, the database, and the addresses institutions use."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from lepton_fl.errors import ConfigError
from lepton_fl.files import replace_file
from lepton_fl.link import certificates
from lepton_fl.link.certificates import Authority, read_key, to_pem, write_key
from lepton_fl.link.signature import Signer, signer

DEFAULT = Path("~/.lepton/server")


@dataclass(frozen=True)
class Addresses:
    """Under which names and ports institutions reach this server."""

    hosts: tuple[str, ...]
    port: int  # the federation, mutual TLS
    enrolment_port: int  # server TLS only


@dataclass(frozen=True)
class Home:
    """An initialised folder."""

    path: Path
    addresses: Addresses

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.path / "server.db"

    @property
    def lock(self) -> Path:
        """Held by the one process that serves."""
        return self.path / "server.lock"

    @property
    def checkpoints(self) -> Path:
        """A folder for each unfinished run."""
        return self.path / "checkpoints"

    def authority(self) -> Authority:
        """The CA with its key."""
        return Authority(read_key(self.path / "ca" / "ca.key"), _certificate(self.path / "ca" / "ca.pem"))

    def signer(self, now: datetime) -> Signer:
        """The key that contracts and ledger heads are signed with; made at the first use, renewed before it ends."""
        key_path, pem_path = self.path / "operator.key", self.path / "operator.pem"
        if pem_path.exists() and not _is_ending(_certificate(pem_path), now):
            here = signer(key_path, pem_path)
            if certificates.key_hash(here.key.public_key()) == certificates.key_hash(here.certificate.public_key()):
                return here
            # A crash came between the two files below.
        key = certificates.new_key()
        write_key(key_path, key)
        replace_file(pem_path, to_pem(certificates.sign_operator(self.authority(), key.public_key(), now)))
        return signer(key_path, pem_path)

    def server_credentials(self, now: datetime) -> tuple[bytes, bytes]:
        """Key and certificate chain in PEM; a certificate with less than a third of its life left is made anew."""
        key_path, pem_path = self.path / "server.key", self.path / "server.pem"
        authority = self.authority()
        if _is_ending(_certificate(pem_path), now):
            key = certificates.new_key()
            signed = certificates.sign_server(authority, key.public_key(), list(self.addresses.hosts), now)
            write_key(key_path, key)
            replace_file(pem_path, to_pem(signed))
        read_key(key_path)
        return key_path.read_bytes(), pem_path.read_bytes() + to_pem(authority.certificate)


def find(path: str | None) -> Path:
    """The home that was asked for: the option, else LEPTON_HOME, else the default."""
    return Path(path or os.environ.get("LEPTON_HOME") or DEFAULT).expanduser()


def init(path: Path, name: str, addresses: Addresses, now: datetime) -> Home:
    """Make the CA and the server's certificate in an empty or new folder.

    Raises:
        ConfigError: there is a home already; it is never overwritten, since its CA cannot be made again.
    """
    if (path / "ca" / "ca.pem").exists():
        raise ConfigError(f"{path} is a server's home already; nothing was changed; use another --home")
    if not name.strip():
        raise ConfigError("a federation needs a name; nothing was made; give --name NAME")
    # Everything that can be wrong with the arguments shows before the folder is touched.
    authority, key = certificates.new_authority(name, now), certificates.new_key()
    signed = certificates.sign_server(authority, key.public_key(), list(addresses.hosts), now)
    try:
        (path / "ca").mkdir(parents=True, exist_ok=True, mode=0o700)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}; nothing was changed; use another --home") from error
    write_key(path / "server.key", key)
    replace_file(path / "server.pem", to_pem(signed))
    replace_file(path / "server.json", (json.dumps(asdict(addresses), indent=2) + "\n").encode())
    write_key(path / "ca" / "ca.key", authority.key)
    # Last: where the CA's certificate stands, the home is whole.
    replace_file(path / "ca" / "ca.pem", to_pem(authority.certificate))
    return Home(path, addresses)


def open_home(path: Path) -> Home:
    """An initialised home; raises `ConfigError` with the command that makes one."""
    try:
        content = json.loads((path / "server.json").read_text())
        addresses = Addresses(tuple(content["hosts"]), int(content["port"]), int(content["enrolment_port"]))
        (path / "ca" / "ca.pem").stat()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not a server's home; nothing was changed; make one with lepton-server init"
        ) from error
    return Home(path, addresses)


def _is_ending(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_after_utc - now < timedelta(days=certificates.SERVER_DAYS / 3)


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read the certificate {path}; nothing was changed; restore it from a backup"
        ) from error
