"""Where a broker is, and who we are to it: its URL, credentials from the environment, files for TLS.

No credential is shown by anything here, and nothing switches the verification of certificates off.
"""

import logging
import re
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engines.errors import UsageError
from streamer import logs
from streamer.config import MqttConfig

log = logging.getLogger("touchline.mqtt")

USER, PASSWORD, PASSWORD_FILE = "TOUCHLINE_MQTT_USER", "TOUCHLINE_MQTT_PASSWORD", "TOUCHLINE_MQTT_PASSWORD_FILE"
"""Of the environment."""

_PORTS = {"mqtt": 1883, "mqtts": 8883}
_FORM = "mqtt://host[:port], or mqtts:// for TLS"  # with an @ in it, what shows no credentials would cut it


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where a broker is and who we are to it; as text it shows no credentials.

    Attributes:
        ca: certificates of the authorities that may vouch for it; None: the system's own.
        cert: our certificate, with what stands between it and its authority.
        key: its key, unless `cert` holds it.
    """

    host: str
    port: int
    tls: bool
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how to speak TLS, from the files as they are now; None for a broker without.

        Raises:
            UsageError: a file is missing, cannot be read or is not what it should be.
        """
        if not self.tls:
            return None
        if self.ca is None:
            context = ssl.create_default_context()
        else:
            _read(self.ca, "--mqtt-ca")
            try:
                context = ssl.create_default_context(cafile=self.ca)
            except ssl.SSLError:
                raise UsageError(f"{self.ca}: there is no certificate in it; --mqtt-ca takes a PEM file.") from None
        if self.cert is not None:
            _identify(context, self.cert, self.key)
        return context

    def shake_hands(self, context: ssl.SSLContext, plain: socket.socket, timeout_s: float) -> ssl.SSLSocket:
        """Return a socket that speaks TLS, to whom the certificate says it is; a failure closes it.

        Raises:
            OSError: it is not, or does not speak TLS.
        """
        secured = context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        try:
            secured.settimeout(timeout_s)
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured


def parse_broker_url(url: str) -> BrokerAddress:
    """Return where a broker is.

    Args:
        url: `mqtt://[user:password@]host[:1883]` or `mqtts://…[:8883]`; user and password percent-encoded.

    Raises:
        UsageError: it is not of that form. The message never quotes it, since it may hold credentials.
    """
    address = None
    with suppress(ValueError):  # whose text would quote the URL
        address = _address(url)
    if address is None:
        raise UsageError(f"The broker's URL is not of the form {_FORM}; {USER} and {PASSWORD} say who we are.")
    return address


def address_of(config: MqttConfig, environ: Mapping[str, str]) -> BrokerAddress:
    """Return where a broker is and who we are to it, checked as far as that goes without it; hide the password.

    Args:
        config: the URL, whose own credentials win, and the files for TLS.
        environ: the environment, with USER, and PASSWORD or PASSWORD_FILE.

    Raises:
        UsageError: the URL, a credential or a file makes no sense.
    """
    address = parse_broker_url(config.url)
    if address.password is not None:
        log.warning(
            "The broker's password stands in the command line, which others on this machine can read; %s and %s are "
            "read from the environment.",
            *(USER, PASSWORD_FILE),
        )
    user = address.user or environ.get(USER) or None
    password = address.password or _password(environ)
    logs.hide(password or "")
    if password is not None and user is None:
        raise UsageError(f"There is a password for the broker but no user; set {USER}.")
    if (config.ca or config.cert or config.key) and not address.tls:
        raise UsageError(f"{address}: certificates are for TLS; write mqtts://, or leave --mqtt-ca, -cert, -key out.")
    if config.key and not config.cert:
        raise UsageError("--mqtt-key is the key of a certificate; give it with --mqtt-cert.")
    address = replace(address, user=user, password=password, ca=config.ca, cert=config.cert, key=config.key)
    address.tls_context()
    return address


def _address(url: str) -> BrokerAddress | None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    host.encode("idna")
    user, password = (unquote(part, errors="strict") if part else None for part in (parts.username, parts.password))
    extra = parts.path.strip("/") or parts.query or parts.fragment
    if parts.scheme not in _PORTS or not host or port == 0 or extra or re.search(r"[\s\x00]", host):
        return None
    return BrokerAddress(host, port or _PORTS[parts.scheme], parts.scheme == "mqtts", user, password)


def _password(environ: Mapping[str, str]) -> str | None:
    path = environ.get(PASSWORD_FILE)
    if not path:
        return environ.get(PASSWORD) or None
    if environ.get(PASSWORD):
        raise UsageError(f"{PASSWORD} and {PASSWORD_FILE} are both set; set one.")
    try:
        return _read(Path(path), PASSWORD_FILE).decode().removesuffix("\n").removesuffix("\r") or None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: this is no text; {PASSWORD_FILE} names a file with the password in it.") from None


def _read(path: Path, who: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); {who} names it.") from None


def _identify(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Load our certificate and its key."""
    holder, option = (key, "--mqtt-key") if key is not None else (cert, "--mqtt-cert")
    if b"CERTIFICATE-----" not in _read(cert, "--mqtt-cert"):
        raise UsageError(f"{cert}: there is no certificate in it; --mqtt-cert takes a PEM file.")
    if b"PRIVATE KEY-----" not in _read(holder, option):
        raise UsageError(f"{holder}: there is no private key in it; --mqtt-key takes a PEM file.")

    def refuse() -> str:
        raise UsageError(f"{holder}: the key is encrypted; give one that is not, with rights for its owner alone.")

    try:
        context.load_cert_chain(cert, holder, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise UsageError(f"{holder}: this is not the key of {cert}.") from None
        raise UsageError(f"{cert}: certificate or key is damaged ({error.reason or 'unreadable'}).") from None
