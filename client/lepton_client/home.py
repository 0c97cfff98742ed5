"""The institution's home: its key, its certificate, the one CA it trusts, and where the server is."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from lepton_fl.errors import ConfigError
from lepton_fl.files import write_secret
from lepton_fl.link.certificates import read_key

DEFAULT = Path("~/.lepton/client")


@dataclass(frozen=True)
class Home:
    """An enrolled institution's folder."""

    path: Path
    institution: str
    addresses: tuple[str, ...]  # host:port of the federation

    @property
    def key(self) -> Path:
        """The private key; made here, mode 0600, never sent."""
        return self.path / "institution.key"

    @property
    def lock(self) -> Path:
        """Held by the one process that serves this institution."""
        return self.path / "client.lock"

    @property
    def certificate(self) -> Path:
        """The institution's certificate; replaced as a whole when it renews."""
        return self.path / "institution.pem"

    @property
    def ca(self) -> Path:
        """The one CA this institution trusts."""
        return self.path / "ca.pem"

    def credentials(self) -> tuple[bytes, bytes, bytes]:
        """CA certificate, private key, own certificate; PEM. Raises `BadCertificate` if others can read the key."""
        read_key(self.key)
        return self.ca.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()


def find(path: str | None) -> Path:
    """The home that was asked for: the option, else LEPTON_HOME, else the default."""
    return Path(path or os.environ.get("LEPTON_HOME") or DEFAULT).expanduser()


def open_home(path: Path) -> Home:
    """An enrolled home; raises `ConfigError` with the command that makes one."""
    try:
        content = json.loads((path / "client.json").read_text())
        return Home(path, str(content["institution"]), tuple(map(str, content["addresses"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is not an enrolled home; nothing was sent; join with lepton-client enroll INVITATION"
        ) from error


def save(home: Home, ca: bytes, certificate: bytes) -> None:
    """Write what enrolment brought; `client.json` last, so that where it stands, everything does."""
    write_secret(home.ca, ca)
    write_secret(home.certificate, certificate)
    content = {"institution": home.institution, "addresses": list(home.addresses)}
    write_secret(home.path / "client.json", (json.dumps(content, indent=2) + "\n").encode())
