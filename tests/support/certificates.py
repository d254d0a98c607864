"""Certificates, made when they are needed."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


class Files:
    """Two self-signed certificates."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = self._make(folder, "ours")
        self.other, self.other_key = self._make(folder, "other")

    @staticmethod
    def _make(folder: Path, name: str) -> tuple[str, str]:
        certificate, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        usage = "keyUsage=critical,digitalSignature,keyCertSign"
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        files = ["-keyout", key, "-out", certificate, "-subj", f"/CN={name}"]
        subprocess.run(
            ["openssl", "req", "-x509", *curve, *files, "-addext", names, "-addext", usage], check=True, capture_output=True
        )
        return certificate, key

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context
