"""An authority of our own, and certificates that it signs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme

from docworker.worker.local.servers.server import HOST


@dataclass(frozen=True)
class Certificates:
    """Of a server: files that everybody may read, as the server is another user's."""

    authority: Path
    certificate: Path
    key: Path

    @classmethod
    def made_in(cls, directory: Path, *, host: str = HOST) -> Self:
        """For a server that is called `host`."""
        directory.mkdir(mode=0o755)
        made = cls(directory / "authority.pem", directory / "certificate.pem", directory / "key.pem")
        authority = trustme.CA()
        issued = authority.issue_cert(host)
        authority.cert_pem.write_to_path(made.authority)
        issued.private_key_pem.write_to_path(made.key)
        issued.cert_chain_pems[0].write_to_path(made.certificate)
        for path in (made.authority, made.certificate, made.key):
            path.chmod(0o644)
        return made
