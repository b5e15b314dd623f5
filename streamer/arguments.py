"""Arguments that several commands take."""

import argparse
from pathlib import Path


def add_input_option(parser: argparse.ArgumentParser) -> None:
    """Add `--input-option`."""
    parser.add_argument(
        "--input-option",
        action="append",
        type=_key_value,
        default=[],
        metavar="KEY=VALUE",
        help="pass an option to FFmpeg, e.g. rtsp_transport=udp; may be repeated",
    )


def add_broker_options(parser: "argparse._ActionsContainer") -> None:
    """Add `--prefix`, `--mqtt-ca`, `--mqtt-cert` and `--mqtt-key`."""
    parser.add_argument("--prefix", default="touchline", help="first level of the topics (default touchline)")
    parser.add_argument(
        "--mqtt-ca",
        type=Path,
        metavar="PEM",
        help="certificates of the authorities that may vouch for an mqtts:// broker (default: the system's); "
        "user and password are read from TOUCHLINE_MQTT_USER, and TOUCHLINE_MQTT_PASSWORD or "
        "TOUCHLINE_MQTT_PASSWORD_FILE",
    )
    parser.add_argument("--mqtt-cert", type=Path, metavar="PEM", help="our certificate, for a broker that asks for one")
    parser.add_argument("--mqtt-key", type=Path, metavar="PEM", help="its key, unless it is in the same file")


def seconds(text: str) -> float:
    """Return a number of seconds, above 0 and at most 600."""
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds from above 0 to 600 belongs here")
    return value


def _key_value(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator:
        raise argparse.ArgumentTypeError(f"{text!r}: write KEY=VALUE")
    return key, value
