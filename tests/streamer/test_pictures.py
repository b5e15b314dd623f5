import io
from fractions import Fraction
from itertools import product

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given
from hypothesis import strategies as st

from engines.second import UINT8
from streamer.sources.base import PictureSpec, SourceFault
from streamer.sources.picture import RESIZE_FILTERS, AvPicture, Turn, plausible

DEMO = PictureSpec(rate=4, width=160, height=90)
SCREEN = PictureSpec(rate=4, width=320, height=180)


def noise(width: int, height: int, format: str = "yuv420p", seed: int = 0) -> av.VideoFrame:
    """Return a smooth random picture of any size and format."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 8, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(coarse, "rgb24")
    return frame.reformat(width, height, format=format, interpolation=Interpolation.BICUBIC)


def white(width: int, height: int) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.full((height, width, 3), 255, np.uint8), "rgb24")


def through(frame: av.VideoFrame, *steps: tuple[str, str]) -> av.VideoFrame:
    """Return a frame after some of FFmpeg's filters."""
    graph = av.filter.Graph()
    source = graph.add_buffer(None, frame.width, frame.height, frame.format, time_base=Fraction(1, 25))
    graph.link_nodes(source, *(graph.add(*step) for step in steps), graph.add("buffersink")).configure()
    graph.push(frame)
    changed = graph.pull()
    assert isinstance(changed, av.VideoFrame)
    return changed


def interlaced(frame: av.VideoFrame) -> av.VideoFrame:
    return through(frame, ("setfield", "tff"))


def turned(picture: UINT8, degrees: int, hflip: bool, vflip: bool) -> av.VideoFrame:
    """Return a decoded frame that is shown turned counter-clockwise, and then mirrored."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.set_display_rotation(degrees, hflip, vflip)
        for packet in (*stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")), *stream.encode(None)):
            out.mux(packet)
    with av.open(io.BytesIO(file.getvalue()), "r") as container:
        return next(container.decode(video=0))


def box_of(picture: UINT8) -> tuple[int, int, int, int]:
    """Return left, top, width and height of what is not black."""
    columns, rows = np.flatnonzero(picture.max((0, 2))), np.flatnonzero(picture.max((1, 2)))
    return int(columns[0]), int(rows[0]), len(columns), len(rows)


@pytest.mark.parametrize("resize_filter", sorted(RESIZE_FILTERS))
@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (640, 360), (1366, 768), (640, 358), (854, 480)])
def test_an_ordinary_picture_is_what_one_plain_resize_gives(size: tuple[int, int], resize_filter: str) -> None:
    frame = noise(*size)
    wanted = frame.reformat(160, 90, format="rgb24", interpolation=RESIZE_FILTERS[resize_filter]).to_ndarray()
    got = AvPicture(frame).rgb(PictureSpec(4, 160, 90, resize_filter))
    assert np.array_equal(got, wanted)


@pytest.mark.parametrize("format", ["yuv420p10le", "yuv422p", "yuv422p10le", "yuv444p", "nv12", "gray", "rgb24"])
@pytest.mark.parametrize("size", [(1280, 720), (161, 91), (16, 9)])
def test_any_pixel_format_and_odd_sizes_are_one_plain_resize_too(size: tuple[int, int], format: str) -> None:
    frame = noise(*size, format)
    wanted = frame.reformat(320, 180, format="rgb24", interpolation=Interpolation.AREA).to_ndarray()
    assert np.array_equal(AvPicture(frame).rgb(SCREEN), wanted)


@pytest.mark.parametrize(
    ("size", "sar", "box"),
    [
        ((640, 480), "1", (40, 0, 240, 180)),
        ((480, 360), "4/3", (0, 0, 320, 180)),
        ((720, 576), "64/45", (0, 0, 320, 180)),
        ((720, 576), "16/15", (40, 0, 240, 180)),
        ((704, 480), "40/33", (0, 0, 320, 180)),
        ((1920, 804), "1", (0, 23, 320, 134)),
        ((360, 640), "1", (109, 0, 101, 180)),
        ((1000, 1), "1", (0, 89, 320, 1)),
    ],
)
def test_a_picture_of_another_shape_has_black_bars(
    size: tuple[int, int], sar: str, box: tuple[int, int, int, int]
) -> None:
    assert box_of(AvPicture(white(*size), Fraction(sar)).rgb(SCREEN)) == box


@given(
    width=st.integers(2, 300),
    height=st.integers(2, 300),
    sar=st.fractions(Fraction(1, 4), Fraction(4)),
    aspect=st.sampled_from([16 / 9, 4 / 3, 1.0]),
)
def test_whatever_its_shape_a_picture_lies_in_the_middle_of_the_screen_in_its_own_shape(
    width: int, height: int, sar: Fraction, aspect: float
) -> None:
    spec = PictureSpec(4, 160, 90, aspect=aspect)
    picture = AvPicture(white(width, height), sar).rgb(spec)
    assert picture.shape == (90, 160, 3)
    left, top, wide, high = box_of(picture)
    assert picture[top : top + high, left : left + wide].min() > 250
    assert abs(left - (160 - wide) / 2) <= 0.5
    assert abs(top - (90 - high) / 2) <= 0.5
    shape = float(width * sar / height)
    squeezed = 160 / 90 / aspect  # the screen's own pixels
    assert (wide, high) == (160, 90) or abs(wide - high * shape * squeezed) <= 1 + shape * squeezed
    assert wide == 160 or high == 90


@pytest.mark.parametrize(("turn", "hflip", "vflip"), list(product((0, 90, 180, -90), (False, True), (False, True))))
def test_a_turned_or_mirrored_picture_is_shown_upright(turn: int, hflip: bool, vflip: bool) -> None:
    coded = np.zeros((90, 160, 3), np.uint8)
    coded[:30, :40], coded[:30, 120:], coded[60:, :40] = (255, 64, 64), (64, 255, 64), (64, 64, 255)
    shown = np.rot90(coded, turn // 90)
    shown = shown[:, ::-1] if hflip else shown
    shown = shown[::-1] if vflip else shown
    wanted = AvPicture(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown), "rgb24")).rgb(DEMO)
    frame = turned(coded, turn, hflip, vflip)
    got = AvPicture(frame, turn=Turn.of(frame)).rgb(DEMO)
    assert np.abs(got.astype(int) - wanted).mean() < 6
    corners = [(2, 2), (2, -3), (-3, 2), (-3, -3)]
    left, top, wide, high = box_of(wanted)
    inner, wanted = (p[top : top + high, left : left + wide] for p in (got, wanted))
    assert all(np.abs(inner[c].astype(int) - wanted[c]).max() < 16 for c in corners)


def test_the_two_fields_of_an_interlaced_picture_are_not_mixed() -> None:
    combed = np.zeros((576, 1024, 3), np.uint8)
    combed[::2] = 255
    frame = av.VideoFrame.from_ndarray(combed, "rgb24").reformat(format="yuv422p")
    assert AvPicture(interlaced(frame)).rgb(DEMO).min() > 250
    assert 100 < AvPicture(frame).rgb(DEMO).mean() < 155


@pytest.mark.parametrize("format", ["yuv420p", "yuv422p10le", "yuv444p"])
@pytest.mark.parametrize("size", [(1920, 1080), (1024, 576), (334, 189)])
def test_a_field_shows_the_same_as_the_picture(size: tuple[int, int], format: str) -> None:
    frame = noise(*size, format)
    field, whole = (AvPicture(f).rgb(DEMO).astype(int) for f in (interlaced(frame), frame))
    assert np.abs(field - whole).mean() < 2


def test_an_interlaced_picture_keeps_its_range_and_colours() -> None:
    frame = through(noise(1024, 576), ("setparams", "colorspace=bt709:range=tv"))
    field, whole = (AvPicture(f).rgb(DEMO).astype(int) for f in (interlaced(frame), frame))
    assert np.abs(field - whole).mean() < 2


def test_a_size_that_no_picture_has_is_not_plausible() -> None:
    assert plausible(white(16, 2))
    assert not plausible(av.VideoFrame(0, 0))


def test_what_cannot_be_converted_is_one_sentence() -> None:
    with pytest.raises(SourceFault, match=r"cannot be converted to RGB: .*\.$") as caught:
        AvPicture(noise(16, 9)).rgb(PictureSpec(4, -1, 90))
    assert caught.value.cause == "undecodable"
