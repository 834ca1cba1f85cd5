"""Throw-away certificates for a server on 127.0.0.1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, the certificate it gave the server, and a CA that gave nobody any."""

    ca: Path
    server_certificate: Path
    server_key: Path
    wrong_ca: Path

    @property
    def server_options(self) -> tuple[str, ...]:
        """The options that make mariadbd offer TLS with these."""
        return (
            f"--ssl-ca={self.ca}",
            f"--ssl-cert={self.server_certificate}",
            f"--ssl-key={self.server_key}",
        )


def make_certificates(directory: Path) -> Certificates:
    """Write them into `directory`; the server's is valid for 127.0.0.1 and localhost."""
    made = Certificates(
        ca=directory / "ca.pem",
        server_certificate=directory / "server.pem",
        server_key=directory / "server-key.pem",
        wrong_ca=directory / "wrong-ca.pem",
    )
    ca = trustme.CA()
    server = ca.issue_cert("127.0.0.1", "localhost")
    ca.cert_pem.write_to_path(made.ca)
    server.cert_chain_pems[0].write_to_path(made.server_certificate)
    server.private_key_pem.write_to_path(made.server_key)
    trustme.CA().cert_pem.write_to_path(made.wrong_ca)
    return made
