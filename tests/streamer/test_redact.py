import pytest

from streamer.redact import redact, redact_url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:secret@camera:554/main", "rtsp://camera:554/main"),
        ("rtsp://user:se/cr?et#@camera/main", "rtsp://camera/main"),
        ("user:secret@camera/main", "camera/main"),
        ("https://cdn/live.m3u8?token=secret", "https://cdn/live.m3u8?…"),
        ("cannot open 'rtmp://u:secret@host/app?k=secret': refused", "cannot open 'rtmp://host/…?…': refused"),
        ("rtmp://host/app/KEY: cannot be opened", "rtmp://host/app/…: cannot be opened"),
        ("waiting at rtmps://0.0.0.0:1935/app/live/KEY.", "waiting at rtmps://0.0.0.0:1935/app/live/…"),
        ("rtmp://host", "rtmp://host"),
        ("srt://host:9000?passphrase=secret&latency=1", "srt://host:9000?…"),
        ("GET /events?token=secret HTTP/1.1", "GET /events?… HTTP/1.1"),
        ("what?!", "what?!"),
        ("/videos/me@home.mp4", "/videos/me@home.mp4"),
        ("match.ts", "match.ts"),
    ],
)
def test_no_secret_of_a_url_is_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp:/user:secret@host/x", "rtsp:/host/x"),
        ("rtsp//user:secret@host/x", "host/x"),
        ("rtsp://u:a secret@h/x", "rtsp://h/x"),
        ("rtsp://user:se/cr?et#@camera/main", "rtsp://camera/main"),
        ("rtsp://user@camera/main", "rtsp://camera/main"),
        ("rtsp://camera/main", "rtsp://camera/main"),
        ("/videos/me@home.mp4", "/videos/me@home.mp4"),
        ("match.ts", "match.ts"),
    ],
)
def test_a_mistyped_url_shows_no_secret_either(url: str, shown: str) -> None:
    assert redact_url(url) == shown
