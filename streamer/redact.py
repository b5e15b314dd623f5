"""URLs as they may be shown: no user, no password, no secret in a query, no stream key of RTMP.

Better too much hidden than a password shown: everything up to the last `@` goes, wherever a stray `/` or `?` in an
unescaped password would put it.
"""

import re

_CREDENTIALS = re.compile(r"(?<=://)\S*@")
_BARE_CREDENTIALS = re.compile(r"(?<!\S)[^\s/:]+:[^\s/]+@")
_BEFORE_HOST = re.compile(r"^([a-z0-9+.-]+:/*)?(?=.*@)(?:(?<=/)|(?=[^@]*:)).*@", re.S | re.I)
_STREAM_KEY = re.compile(r"(\brtmp\w*://[^\s?]*/)[^\s/?:'\"]+")
_QUERY = re.compile(r"(?<=\?)[^\s'\"]+")
_BARE_QUERY = re.compile(r"(?<=\?)[^\s'\"=]+=[^\s'\"]+")


def redact(text: str) -> str:
    """Return a URL, or text with URLs in it, without credentials and with every URL's query hidden."""
    if "://" in text:
        return _STREAM_KEY.sub(r"\1…", _QUERY.sub("…", _CREDENTIALS.sub("", text)))
    return _BARE_QUERY.sub("…", _BARE_CREDENTIALS.sub("", text))


def redact_url(url: str) -> str:
    """Return one URL (mistyped ones too) without whatever stands before its last `@`, if a `:` stands there."""
    return redact(_BEFORE_HOST.sub(r"\1", url))


def printable(text: str) -> str:
    """Return text that cannot break a line or steer the terminal: it comes from whoever may publish, or from files."""
    return "".join(c if c.isprintable() else "�" for c in text)
