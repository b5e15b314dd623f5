"""CALF as the head of the live path, on video: chunks slide behind the shipped front ends."""

from pathlib import Path

import pytest
import torch
from command import Touchline

from engines.bundle import FORMAT_VERSION, Decision, HeadSpec, Manifest, open_bundle
from engines.labels import SOCCERNET_LABELS
from training.export import ChunkHead, write_head_bundle
from training.models.calf import Calf, CalfConfig


@pytest.fixture(scope="module")
def calf_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CALF of random weights on the shipped visual front end, its chunk sliding by 2 s."""
    path = tmp_path_factory.mktemp("calf") / "bundle"
    front_ends = open_bundle(Path(__file__).parents[2] / "bundles" / "demo")
    visual = next(s for s in front_ends.manifest.streams if s.name == "visual")
    torch.manual_seed(5)
    net = Calf(CalfConfig({"visual": visual.width}, rows=20, receptive_field=8)).eval()
    with torch.no_grad():  # untrained, all anchors point to the middle: spread them over the chunk
        net.place.bias[1::2] = torch.logit(torch.linspace(0.02, 0.98, 15))
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="calf",
        labels=SOCCERNET_LABELS,
        streams=(visual,),
        head=HeadSpec(
            file="head.onnx",
            kind="calf",
            rows=20,
            look_ahead_s=4,
            outputs="chunk",
            window_stride_rows=2,
            edges="repeat",
        ),
        decision={label: Decision(threshold=0.3, radius_s=2) for label in SOCCERNET_LABELS},
        sha256={},
    )
    write_head_bundle(path, ChunkHead(net, as_original=False), manifest, front_ends)
    return path


def test_calf_says_live_what_it_says_on_replay_and_within_its_promise(
    touchline: Touchline, calf_bundle: Path, short_sample: Path
) -> None:
    replay = touchline("replay", short_sample, "--bundle", calf_bundle)
    live = touchline("live", short_sample, "--speed", "2", "--bundle", calf_bundle)
    assert replay.code == live.code == 0, replay.err + live.err
    assert len(replay.spots) > 3
    keys = ("id", "label", "media_time", "confidence", "emitted_at", "flags")
    assert [[s[k] for k in keys] for s in live.spots] == [[s[k] for k in keys] for s in replay.spots]
    promise = open_bundle(calf_bundle).manifest.promised_delay_s("Goal")
    assert promise == 4 + 1 + 2 + 0.5
    assert f"at most {promise:.2f} s after its action" in replay.err
    assert all(s["emitted_at"] - s["media_time"] <= promise for s in replay.spots)
