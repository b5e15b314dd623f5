"""URLs as they may be shown: no user, no password, no secret in a query."""

import re
from urllib.parse import urlsplit, urlunsplit

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@")
_QUERY = re.compile(r"(?<=\?)[^\s'\"]+")


def redact(url: str) -> str:
    """Return `url` without credentials and with its query hidden; a plain path comes back unchanged."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return redact_text(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def redact_text(text: str) -> str:
    """Return free text (an error message of a library, say) with the secrets of every URL in it hidden."""
    return _QUERY.sub("…", _CREDENTIALS.sub("", text))
