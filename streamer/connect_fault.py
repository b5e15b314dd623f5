"""Why a broker cannot be reached, refuses, or was lost: in one sentence, without a credential."""

import re
import socket
import ssl

from engines.errors import DeliveryError
from streamer.address import BrokerAddress
from streamer.redact import redact

_NOT_AUTHORISED = {134, 135}  # MQTT 5's codes: a wrong user or password, and one who may not
TAKEN_OVER = 142
"""MQTT 5's code of a connection that ended because another came to the broker with our name."""
_NO_REASON = 128
_UNKNOWN_AUTHORITY = {18, 19, 20, 21}  # OpenSSL's codes


class ConnectFault(DeliveryError):
    """A broker cannot be reached, refuses, or was lost.

    Attributes:
        permanent: trying again is of no use.
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


def why_refused(
    address: BrokerAddress, code: int, text: str, what: str = "to connect; check user and password"
) -> ConnectFault:
    """Return what a broker's answer means.

    Args:
        address: where it is.
        code: MQTT 5's reason code.
        text: the same in words.
        what: was refused.
    """
    if code in _NOT_AUTHORISED:
        return ConnectFault(f"{address}: not authorised {what}.", permanent=True)
    return ConnectFault(f"{address}: the broker refused ({text}).")


def why_lost(address: BrokerAddress, code: int | None, text: str = "") -> ConnectFault:
    """Return what the end of a connection means.

    Args:
        address: where the broker is.
        code: MQTT 5's reason code, if it gave one.
        text: the same in words.
    """
    if code == TAKEN_OVER:  # two that take it from each other would do so for ever
        return ConnectFault(f"{address}: another watch uses this session; give another --session name.", permanent=True)
    reason = f" ({text})" if code is not None and code != _NO_REASON else ""
    return ConnectFault(f"{address}: the connection was lost{reason}.")


def why_not_connected(address: BrokerAddress, cause: BaseException | None) -> ConnectFault:
    """Return what an exception means that came instead of an answer; None: nothing came."""
    if isinstance(cause, socket.gaierror):
        return ConnectFault(f"{address}: there is no such host.")
    if isinstance(cause, ConnectionRefusedError):
        return ConnectFault(f"{address}: connection refused; is a broker running there?")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _why_not_trusted(address, cause)
    if (
        isinstance(cause, ssl.SSLError)
        or "SSL" in str(cause)
        or (address.tls and isinstance(cause, ConnectionResetError))
    ):
        return _why_no_tls(address, str(cause))
    if isinstance(cause, ConnectionError):
        hint = "." if address.tls else "; does it want TLS (mqtts://)?"
        return ConnectFault(f"{address}: it hangs up without a word of MQTT{hint}")
    if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
        return ConnectFault(f"{address}: cannot be reached ({redact(cause.strerror or str(cause))}).")
    return ConnectFault(f"{address}: nothing that speaks MQTT answers there.")


def _why_not_trusted(address: BrokerAddress, cause: ssl.SSLCertVerificationError) -> ConnectFault:
    hint = "; --mqtt-ca can name the authority that issued it" if cause.verify_code in _UNKNOWN_AUTHORITY else ""
    reason = cause.verify_message
    return ConnectFault(f"{address}: its certificate cannot be trusted ({reason}){hint}.", permanent=True)


def _why_no_tls(address: BrokerAddress, reason: str) -> ConnectFault:
    """Say what a handshake, or the first word after it, failed of."""
    if re.search("CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE", reason, re.I):
        if address.cert is None:
            wanted = "it asks for a certificate of ours; give --mqtt-cert and --mqtt-key"
        else:
            wanted = f"it does not accept our certificate {address.cert}"
        return ConnectFault(f"{address}: {wanted}.", permanent=True)
    return ConnectFault(f"{address}: TLS failed; is this its port for mqtts?")
