"""Real servers and senders on loopback, started by a test and ended by their process ids.

    with hls_origin(broadcast(tmp_path, 30), tmp_path / "hls") as origin:
        ...  # read origin.url
        origin.freeze()  # it still holds its connections, and says nothing
        origin.thaw()
        origin.kill()  # gone, without a good-bye
        origin.restart()  # another one on the same port

What consists of several programs (nginx and who publishes to it) has them in `parts`, and does all this to all of them.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engines.second import UINT8
from streamer.sources.base import PictureSpec

WIDTH, HEIGHT, RATE = 320, 180, 25
"""Of the test pictures; a key frame every second."""
SPEC = PictureSpec(2, WIDTH, HEIGHT)
_READY_S = 20.0
_BITS, _BLOCK = 16, 20
_GST_PYTHON = "/usr/bin/python3"
_RTMP_MODULES = (Path("/usr/lib/nginx/modules/ngx_rtmp_module.so"), Path("/usr/lib64/nginx/modules/ngx_rtmp_module.so"))


def needs(*programs: str) -> None:
    """Skip the test if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# Pictures that say their number


def numbered(number: int) -> UINT8:
    """Return a test picture; its number stands in black and white blocks at the top left."""
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    left = number * 3 % (WIDTH - 40)
    picture[100:140, left : left + 40] = 200
    for bit in range(_BITS):
        white = number >> (_BITS - 1 - bit) & 1
        picture[:_BLOCK, bit * _BLOCK : (bit + 1) * _BLOCK] = 235 if white else 16
    return picture


def number_of(picture_HWC: UINT8) -> int:
    """Return the number of a test picture."""
    row = picture_HWC[_BLOCK // 2, _BLOCK // 2 :: _BLOCK, 1][:_BITS] > 128
    return int("".join("1" if white else "0" for white in row), 2)


def broadcast(path: Path, seconds: int = 60, b_frames: int = 0) -> Path:
    """Write numbered pictures (H.264) with a tone (AAC) as MPEG-TS; return the path."""
    tone = (0.3 * np.sin(2 * np.pi * 1000 * np.arange(48_000) / 48_000)).astype(np.float32)
    with av.open(str(path), "w", format="mpegts") as out:
        options = {"preset": "ultrafast", "crf": "30", "g": str(RATE), "bf": str(b_frames), "sc_threshold": "0"}
        video = out.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = out.add_stream("aac", rate=48_000, layout="stereo")
        for second in range(seconds):
            for number in range(second * RATE, (second + 1) * RATE):
                picture = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
                picture.pts, picture.time_base = number, Fraction(1, RATE)
                out.mux(video.encode(picture))
            sound = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, second * 48_000, Fraction(1, 48_000)
            out.mux(audio.encode(sound))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return path


# Servers


class Server:
    """Programs that run until the `with` block ends; see the module.

    Args:
        url: where a stream can be read, or what a program sends to.
        command: of one program; none if it consists of `parts`.
        ready: whether it can be used; asked until it is.
        parts: what it consists of, started in order.
        log: file for what the program has to say.
    """

    def __init__(
        self,
        url: str,
        command: Sequence[str] = (),
        *,
        ready: Callable[[], bool] = lambda: True,
        parts: Sequence["Server"] = (),
        log: Path | None = None,
    ) -> None:
        self.url = url
        self.parts = tuple(parts)
        self._command, self._ready, self._log = list(command), ready, log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pids(self) -> list[int]:
        """Process ids, each the leader of a group of its own."""
        own = [self._process.pid] if self._process is not None else []
        return own + [pid for part in self.parts for pid in part.pids]

    def start(self) -> None:
        """Start it, and wait until it can be used."""
        for part in self.parts:
            part.start()
        if self._command:
            stderr = self._log.open("ab") if self._log is not None else subprocess.DEVNULL
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
            finally:
                if not isinstance(stderr, int):
                    stderr.close()
        wait_for(self._ready, self._trouble)

    def _trouble(self) -> str:
        said = self._log.read_text(errors="replace")[-500:] if self._log is not None and self._log.is_file() else ""
        return f"{' '.join(self._command[:1])} at {self.url}, which says: {said}"

    def freeze(self) -> None:
        """Stop it where it is (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a good-bye (SIGKILL)."""
        self._signal(signal.SIGKILL)
        for part in self.parts:
            part.kill()
        if self._process is not None:
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Start it anew on the same port."""
        self.kill()
        self.start()

    def _signal(self, number: int) -> None:
        for pid in self.pids:
            os.killpg(pid, number)  # not reaped yet, so the id is still its own


def wait_for(done: Callable[[], bool], what: Callable[[], str], limit_s: float = _READY_S) -> None:
    """Return as soon as `done` says so; fail after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not done():
        assert time.monotonic() < deadline_s, f"waited {limit_s:.0f} s in vain for {what()}"
        time.sleep(0.05)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """Return a port of loopback that nobody uses, nor the next one (RTP takes two), and that no caller is given."""
    while True:
        port = 2 * random.randrange(10_000, 16_000)
        with suppress(OSError), socket.socket(socket.AF_INET, kind) as one, socket.socket(socket.AF_INET, kind) as two:
            one.bind(("127.0.0.1", port))
            two.bind(("127.0.0.1", port + 1))
            return port


def is_open(port: int, kind: str = "tcp") -> bool:
    """Return whether somebody listens at a port, without calling there: some servers take one caller only."""
    table = Path(f"/proc/net/{kind}")
    if not table.is_file():  # no Linux: hope that it is quick
        time.sleep(1.0)
        return True
    state = "0A" if kind == "tcp" else "07"
    rows = [line.split() for line in table.read_text().splitlines()[1:]]
    return any(int(row[1].rpartition(":")[2], 16) == port and row[3] == state for row in rows)


def http_server(folder: Path) -> Server:
    """Return a web server of a folder's files that knows byte ranges; its URL has no slash at the end."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("file_server.py")), str(folder), str(port)]
    return Server(f"http://127.0.0.1:{port}", command, ready=lambda: is_open(port))


def hls_origin(media: Path, folder: Path, *, segment_s: int = 1, kind: str = "mpegts", listed: int = 6) -> Server:
    """Return a live HLS origin: `parts` are its web server and its packager. Segment k starts with picture 25 k."""
    needs("ffmpeg")
    folder.mkdir(exist_ok=True)
    playlist = folder / "live.m3u8"
    flags = [*_segments(kind, segment_s), "-hls_list_size", str(listed)]
    flags += ["-hls_flags", "program_date_time+delete_segments", "-hls_delete_threshold", "3"]
    command = [*_ffmpeg_live(media), "-f", "hls", *flags, str(playlist)]
    web = http_server(folder)
    ready = lambda: playlist.is_file() and playlist.read_text().count("#EXTINF") > 1  # noqa: E731
    packager = Server(str(playlist), command, ready=ready, log=folder / "packager.log")
    return Server(f"{web.url}/live.m3u8", parts=[web, packager])


def hls_recording(media: Path, folder: Path, *, segment_s: int = 2, kind: str = "mpegts") -> Path:
    """Write a finished playlist and its segments; return the playlist's path."""
    needs("ffmpeg")
    folder.mkdir(exist_ok=True)
    playlist = folder / "vod.m3u8"
    flags = [*_segments(kind, segment_s), "-hls_playlist_type", "vod", "-hls_flags", "program_date_time"]
    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(media), "-c", "copy", "-f", "hls", *flags]
    subprocess.run([*command, str(playlist)], check=True, cwd=folder)
    return playlist


def _segments(kind: str, segment_s: int) -> list[str]:
    sound = ["-bsf:a", "aac_adtstoasc"] if kind == "fmp4" else []
    return [*sound, "-hls_time", str(segment_s), "-hls_segment_type", kind]


_RTSP = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer

def play(source):
    source.set_property("location", sys.argv[1])

Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[2])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( filesrc name=file ! tsdemux name=demux "
    "demux. ! queue ! h264parse ! rtph264pay name=pay0 pt=96 "
    "demux. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 )"
)
factory.connect("media-constructed", lambda _, media: play(media.get_element().get_by_name("file")))
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
GLib.MainLoop().run()
"""


def rtsp_server(media: Path, folder: Path) -> Server:
    """Return an RTSP server that plays a file's H.264 and AAC as they are, to each client from its start."""
    needs("ffmpeg")
    probe = "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')"
    if not Path(_GST_PYTHON).is_file() or subprocess.run([_GST_PYTHON, "-c", probe], capture_output=True).returncode:
        pytest.skip("gst-rtsp-server (gir1.2-gst-rtsp-server-1.0) is not installed")
    port = free_port()
    command = [_GST_PYTHON, "-c", _RTSP, str(_repeated(media, folder)), str(port)]
    return Server(f"rtsp://127.0.0.1:{port}/live", command, ready=lambda: is_open(port), log=folder / "rtsp.log")


def _repeated(media: Path, folder: Path, times: int = 10) -> Path:
    """Write a file several times in a row, on one clock; return the path."""
    path = folder / f"{media.stem}-{times}-times.ts"
    if not path.is_file():
        loop = ["ffmpeg", "-v", "error", "-nostdin", "-stream_loop", str(times - 1), "-i", str(media), "-c", "copy"]
        subprocess.run([*loop, "-muxdelay", "0", "-muxpreload", "0", str(path)], check=True)
    return path


def rtmp_server(media: Path, folder: Path) -> Server:
    """Return nginx with its RTMP module, and who publishes to it: the two `parts`."""
    needs("nginx", "ffmpeg")
    module = next((path for path in _RTMP_MODULES if path.is_file()), None)
    if module is None:
        pytest.skip("nginx's RTMP module (libnginx-mod-rtmp) is not installed")
    port = free_port()
    (folder / "nginx.conf").write_text(
        f"load_module {module};\ndaemon off;\nmaster_process off;\npid {folder}/nginx.pid;\n"
        f"error_log {folder}/nginx-error.log;\nevents {{ worker_connections 64; }}\n"
        f"rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}\n"
    )
    command = ["nginx", "-e", f"{folder}/nginx-error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    nginx = Server(f"rtmp://127.0.0.1:{port}", command, ready=lambda: is_open(port), log=folder / "nginx.log")
    url = f"{nginx.url}/live/match"
    return Server(url, parts=[nginx, sender(media, url, "flv", folder)])


def sender(media: Path, url: str, container: str, folder: Path, *, listens: int | None = None) -> Server:
    """Return who sends a file to a URL for ever, at the speed of life, and calls again when the line is cut.

    Args:
        media: what to send, again and again on one clock, until the line is cut.
        url: where to.
        container: FFmpeg's name of it.
        folder: for its log.
        listens: the TCP port at which it waits for whoever reads, if it does.
    """
    needs("ffmpeg", "sh")
    send = [*_ffmpeg_live(media), "-f", container, "-flush_packets", "1", url]
    command = ["sh", "-c", 'while :; do "$@"; sleep 0.3; done', "sh", *send]
    return Server(
        url,
        command,
        ready=lambda: listens is None or is_open(listens),
        log=folder / f"{url.partition(':')[0]}-send.log",
    )


def udp_sender(media: Path, folder: Path, group: str = "127.0.0.1") -> Server:
    """Return who sends MPEG-TS by UDP, to loopback or to a multicast group."""
    port = free_port(socket.SOCK_DGRAM)
    server = sender(media, f"udp://{group}:{port}?pkt_size=1316&ttl=0", "mpegts", folder)
    server.url = f"udp://{'' if group == '127.0.0.1' else '@'}{group}:{port}"
    return server


def rtp_sender(media: Path, folder: Path) -> Server:
    """Return who sends MPEG-TS in RTP packets to loopback."""
    return sender(media, f"rtp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "rtp_mpegts", folder)


def tcp_sender(media: Path, folder: Path, *, calls: bool) -> Server:
    """Return who sends MPEG-TS by TCP: calls us where we listen, or waits for our call. The URL is ours."""
    port = free_port()
    if calls:
        server = sender(media, f"tcp://127.0.0.1:{port}", "mpegts", folder)
        server.url += "?listen=1"
        return server
    server = sender(media, f"tcp://127.0.0.1:{port}?listen=1", "mpegts", folder, listens=port)
    server.url = f"tcp://127.0.0.1:{port}"
    return server


def srt_sender(media: Path, folder: Path, *, calls: bool) -> Server:
    """Return who sends MPEG-TS by SRT: calls us where we listen, or waits for our call. The URL is ours."""
    needs("ffmpeg")
    listed = subprocess.run(["ffmpeg", "-hide_banner", "-protocols"], capture_output=True, text=True, check=True)
    if "srt" not in listed.stdout.split():
        pytest.skip("ffmpeg has no SRT")
    port = free_port(socket.SOCK_DGRAM)
    mine, ours = ("caller", "listener") if calls else ("listener", "caller")
    server = sender(media, f"srt://127.0.0.1:{port}?mode={mine}&pkt_size=1316", "mpegts", folder)
    server.url = f"srt://127.0.0.1:{port}?mode={ours}&latency=120000"
    return server


def rtmp_encoder(media: Path, folder: Path) -> Server:
    """Return an encoder that pushes by RTMP to where we listen. The URL is ours."""
    server = sender(media, f"rtmp://127.0.0.1:{free_port()}/app/key", "flv", folder)
    server.url += "?listen=1"
    return server


def _ffmpeg_live(media: Path) -> list[str]:
    """Return the start of a command that copies a file at the speed of life, again and again."""
    return ["ffmpeg", "-v", "error", "-nostdin", "-re", "-stream_loop", "-1", "-i", str(media), "-c", "copy"]
