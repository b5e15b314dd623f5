"""A real Mosquitto on loopback, and certificates for it; tests are skipped, by name, where it is not installed.

with mosquitto(tmp_path) as broker:
    ...  # broker.url; broker.ws_url with websockets=True
    broker.freeze(), broker.thaw(), broker.kill(), broker.restart()  # as every Server; restart keeps the port
    broker.stop()  # ends it in good order, so that it writes down what it keeps; broker.start() goes on from there

authority = Authority(tmp_path)
with mosquitto(tmp_path, tls=authority.server()) as broker:
    ...  # broker.url is mqtts://localhost:…, and authority.ca vouches for it
"""

import datetime
import ipaddress
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID
from servers import Server, free_port, is_open, needs

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    cert: Path
    key: Path


class Mosquitto(Server):
    """A broker; see the module."""

    port: int
    ws_url: str | None = None

    def __enter__(self) -> "Mosquitto":
        super().__enter__()
        return self

    def stop(self) -> None:
        """End it in good order (SIGTERM); `start` goes on with what it had kept."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
            self._process = None


def mosquitto(
    folder: Path,
    *settings: str,
    tls: Pair | None = None,
    websockets: bool = False,
    persistent: bool = False,
    port: int | None = None,
) -> Mosquitto:
    """Return a Mosquitto, to be used in a `with` block.

    Args:
        folder: for its files.
        settings: further lines of its configuration; without `allow_anonymous` among them everybody may come.
        tls: its certificate; it then speaks TLS alone.
        websockets: whether a second listener takes WebSockets (at the next port).
        persistent: whether it writes down, at every change, what it keeps for sessions and retains.
        port: None takes a free one.
    """
    needs("mosquitto")
    port = port or free_port()
    lines = [f"listener {port} 127.0.0.1", *_tls(tls)]
    if websockets:
        # the domain, or it listens everywhere
        lines += [f"listener {port + 1} 127.0.0.1", "protocol websockets", "socket_domain ipv4"]
    if not any(line.startswith("allow_anonymous") for line in settings):
        lines.append("allow_anonymous true")
    if persistent:
        lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        lines += ["autosave_on_changes true"]
    if os.geteuid() == 0:
        lines.append("user root")  # or it becomes another user, who may not read the folder
    config = folder / f"mosquitto-{port}.conf"
    config.write_text("\n".join([*lines, *settings]) + "\n")
    url = f"mqtts://localhost:{port}" if tls else f"mqtt://127.0.0.1:{port}"
    ports = [port, port + 1] if websockets else [port]
    broker = Mosquitto(
        url,
        ["mosquitto", "-c", str(config)],
        ready=lambda: all(is_open(each) for each in ports),
        log=folder / f"mosquitto-{port}.log",
    )
    broker.port = port
    broker.ws_url = f"ws://127.0.0.1:{port + 1}" if websockets else None
    return broker


def _tls(pair: Pair | None) -> list[str]:
    return [f"certfile {pair.cert}", f"keyfile {pair.key}"] if pair is not None else []


class Authority:
    """Issues certificates.

    Args:
        folder: for the files.
        name: tells one authority from another.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder, self._name = folder, name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        subject = _subject(f"touchline test {name}")
        builder = _builder(subject, subject, self._key.public_key(), days=1)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(_usage(key_cert_sign=True), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def server(self, hosts: Sequence[str] = HOSTS, *, days: int = 1) -> Pair:
        """Return a server's certificate; of `-1` days it has expired."""
        return self._issue("-".join(hosts), hosts, days, None)

    def client(self, name: str, *, password: bytes | None = None) -> Pair:
        """Return a client's certificate, its key encrypted if there is a password."""
        return self._issue(name, (), 1, password)

    def _issue(self, name: str, hosts: Sequence[str], days: int, password: bytes | None) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_subject(name), self._certificate.subject, key.public_key(), days)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(authority, critical=False)
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), False)
        stem = self._folder / f"{self._name}-{name}-{days}{'-locked' if password else ''}"
        pair = Pair(Path(f"{stem}.crt"), Path(f"{stem}.key"))
        pair.cert.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        lock: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        return pair


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - datetime.timedelta(days=2),
        not_valid_after=now + datetime.timedelta(days=days),
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )
