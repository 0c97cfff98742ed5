"""An institution's home as enrolment leaves it, made here."""

from __future__ import annotations

from datetime import UTC, datetime

from lepton_client.home import Home, save

from lepton_fl.link.certificates import (
    new_authority,
    new_key,
    request_certificate,
    sign_institution,
    to_pem,
    write_key,
)


def enrolled(home: Home) -> None:
    """A home as enrolment leaves it; at its address nobody listens."""
    home.path.mkdir()
    authority, key = new_authority("cardiology", datetime.now(UTC)), new_key()
    signed = sign_institution(authority, request_certificate(key), home.institution, datetime.now(UTC))
    write_key(home.key, key)
    save(home, to_pem(authority.certificate), to_pem(signed))
