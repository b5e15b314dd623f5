"""Arguments that several commands take."""

import argparse


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
