import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.backends.base import Engine
from engines.backends.ort import OrtEngine
from engines.bundle import open_bundle, read_manifest, write_manifest
from engines.errors import BundleError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def bundle(demo_bundle: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    shutil.copytree(demo_bundle, copy)
    return copy


def rewrite(bundle: Path, change: Change) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def complaint(bundle: Path) -> str:
    """Return the one sentence that opening a damaged bundle says; it must come within seconds."""
    started = time.process_time()  # the machine may be busy with other things
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle)
    assert time.process_time() - started < 3
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_the_shipped_bundle_opens_and_is_small(demo_bundle: Path) -> None:
    bundle = open_bundle(demo_bundle)
    assert len(bundle.manifest.labels) == 17
    assert sum(f.stat().st_size for f in demo_bundle.iterdir()) <= 12_000_000


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "audio.onnx").unlink()
    assert "audio.onnx is missing" in complaint(bundle)


def test_a_changed_byte_is_found(bundle: Path) -> None:
    data = bytearray((bundle / "head.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "head.onnx").write_bytes(data)
    assert "head.onnx is damaged" in complaint(bundle)


def test_an_unknown_format_version_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m.update(format_version=99))
    assert "format version 99" in complaint(bundle)


def test_labels_that_disagree_with_the_decision_settings_are_named(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["labels"].__setitem__(2, "Gaol"))
    assert "Gaol" in complaint(bundle)


def test_labels_in_another_order_than_the_graph_was_trained_for_are_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["labels"].reverse())
    assert "labels that the graph was trained for" in complaint(bundle)


def test_a_head_with_another_window_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["head"].update(rows=m["head"]["rows"] + 1))
    assert "shape" in complaint(bundle)


def test_pictures_of_another_size_are_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["streams"][0]["pictures"].update(width=320))
    assert "pictures has shape" in complaint(bundle)


def test_a_graph_that_is_no_graph_is_refused_even_with_a_right_digest(bundle: Path) -> None:
    (bundle / "visual.onnx").write_bytes(b"not a graph")
    manifest, _ = read_manifest(bundle)
    write_manifest(bundle, manifest)
    assert "cannot load this graph" in complaint(bundle)


def test_a_file_outside_the_bundle_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["head"].update(file="../head.onnx"))
    assert "not the name of a file beside the manifest" in complaint(bundle)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m["decision"]["Goal"].update(threshold=1.5), "decision.Goal.threshold"),
        (lambda m: m.pop("head"), "head"),
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m.update(labels=[]), "label list is empty"),
    ],
)
def test_a_manifest_that_makes_no_sense_says_where(bundle: Path, change: Change, said: str) -> None:
    rewrite(bundle, change)
    assert said in complaint(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_one_sentence(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    assert "damaged" in complaint(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "is no bundle" in complaint(tmp_path)


def test_a_manifest_that_is_nested_without_end_is_one_sentence(bundle: Path) -> None:
    (bundle / "manifest.json").write_text("[" * 100_000)
    assert "damaged" in complaint(bundle)


def test_a_file_name_that_no_system_has_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda m: m["head"].update(file="head.onnx\0"))
    assert "not the name of a file beside the manifest" in complaint(bundle)


@pytest.mark.parametrize("labels", ["{", "[" * 100_000])
def test_a_graph_that_says_its_labels_in_no_json_is_refused(demo_bundle: Path, labels: str) -> None:
    def load(path: Path) -> Engine:
        engine = OrtEngine(path)
        engine.metadata = {"labels": labels}
        return engine

    with pytest.raises(BundleError, match="labels that the graph was trained for"):
        open_bundle(demo_bundle, load)
