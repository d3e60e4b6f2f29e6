"""A proxy on loopback that ends TLS for Azure's names and passes what it hears to the sandbox; others are refused.

Azure's SDK takes no other address: it demands https and builds hosts out of account names. `HTTPS_PROXY` and a
certificate of our own are all that it has to be told.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOSTS = ("management.azure.com", "login.microsoftonline.com", "*.blob.core.windows.net", "*.api.azureml.ms")
HOST = "127.0.0.1"
CHUNK = 1 << 16


def is_azures(host: str) -> bool:
    """Say whether a host is one of those that the certificate names."""
    return any(host == name or (name[0] == "*" and host.partition(".")[2] == name[2:]) for name in HOSTS)


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate of a day that vouches for itself, and its key; return both."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anydpo sandbox")])
    now = datetime.now(UTC)
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in HOSTS]
    names.append(x509.IPAddress(ipaddress.ip_address(HOST)))
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    public, private = folder / "azure.pem", folder / "azure.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.touch(0o600)
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


class Proxy:
    """The proxy, in a thread of its own from `start` to `close`."""

    def __init__(self, folder: Path) -> None:
        self.certificate, key = certificate(folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="anydpo sandbox tls", daemon=True)
        self._to: tuple[str, int] = (HOST, 0)
        self._listening: asyncio.Server | None = None
        self.url = ""

    def start(self, origin: str) -> Proxy:
        """Listen, and pass on to this origin."""
        parts = urlsplit(origin)
        self._to = (parts.hostname or HOST, parts.port or 80)
        if not self._thread.is_alive():
            self._thread.start()
            listen = asyncio.start_server(self._serve, HOST, 0)
            self._listening = asyncio.run_coroutine_threadsafe(listen, self._loop).result()
            self.url = f"http://{HOST}:{self._listening.sockets[0].getsockname()[1]}"
        return self

    def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._listening is None:
            self._loop.close()
            return
        self._loop.call_soon_threadsafe(self._listening.close)
        asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._tunnel(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # a peer that went away, or spoke something else
        except asyncio.CancelledError:
            pass  # the sandbox closes
        finally:
            writer.transport.abort()

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split(" ", 2)
        host, _, port = target.rpartition(":")
        if method != "CONNECT" or port != "443" or not is_azures(host):
            writer.write(b"HTTP/1.1 403 only Azure's own hosts are rehearsed here\r\ncontent-length: 0\r\n\r\n")
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 connected\r\n\r\n")
        await writer.drain()
        await writer.start_tls(self._tls)
        their_reader, their_writer = await asyncio.open_connection(*self._to)
        ways = [asyncio.create_task(_pass(reader, their_writer)), asyncio.create_task(_pass(their_reader, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if ways[1].done() and not writer.is_closing():  # the sandbox has ended it: what it said still goes out
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), 2)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            their_writer.transport.abort()


async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await source.read(CHUNK):
            target.write(data)
            await target.drain()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
