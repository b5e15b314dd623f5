"""Make `samples/broadcast.ts` and its labels: one half of a labelled match, encoded again to fit the repository.

    python samples/make.py "MATCH FOLDER" HALF CRF

The sound is copied; the picture is H.264 at the given constant rate factor, a key frame every two seconds.
"""

import json
import sys
from pathlib import Path

import av

HERE = Path(__file__).parent


def main(match: Path, half: int, crf: int) -> None:
    """Write both files."""
    with (
        av.open(str(match / f"{half}.mp4")) as source,
        av.open(str(HERE / "broadcast.ts"), "w", format="mpegts") as out,
    ):
        video, audio = source.streams.video[0], source.streams.audio[0]
        picture = out.add_stream(
            "libx264", rate=video.average_rate, options={"crf": str(crf), "preset": "medium", "bf": "2", "g": "50"}
        )
        picture.width, picture.height, picture.pix_fmt = video.width, video.height, "yuv420p"
        sound = out.add_stream_from_template(audio)
        for packet in source.demux(video, audio):
            if packet.dts is None:
                continue
            if packet.stream is audio:
                packet.stream = sound
                out.mux(packet)
                continue
            for frame in packet.decode():
                frame.pict_type = av.video.frame.PictureType.NONE
                out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
    labels = json.loads((match / "Labels-v2.json").read_text(encoding="utf-8"))
    labels["annotations"] = [
        {**item, "gameTime": "1" + item["gameTime"][1:]}
        for item in labels["annotations"]
        if item["gameTime"][0] == str(half)
    ]
    (HERE / "Labels-v2.json").write_text(json.dumps(labels, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
