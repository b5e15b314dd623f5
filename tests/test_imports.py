import ast
import subprocess
import sys
from pathlib import Path

import pytest

OWNERS = {
    "onnxruntime": {"engines/backends/ort.py"},
    "aiomqtt": {"streamer/mqtt.py"},
    "amqtt": {"streamer/broker.py"},
    "prometheus_client": {"streamer/metrics.py"},
    "sqlite3": {"streamer/outbox_file.py"},
}
"""Third-party modules that one module alone may import."""


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def package_imports(root: Path, package: str) -> list[tuple[str, str]]:
    return [
        (path.relative_to(root).as_posix(), name)
        for path in sorted((root / package).rglob("*.py"))
        for name in imports_of(path)
    ]


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_engines_imports_neither_streamer_nor_training(root: Path) -> None:
    assert [
        i for i in package_imports(root, "engines") if is_within(i[1], "streamer") or is_within(i[1], "training")
    ] == []


def test_training_imports_of_streamer_its_sources_timeline_and_sampler_alone(root: Path) -> None:
    allowed = ("streamer.sources", "streamer.timeline", "streamer.sampler")
    strays = [
        i
        for i in package_imports(root, "training")
        if is_within(i[1], "streamer") and not any(is_within(i[1], a) for a in allowed)
    ]
    assert strays == []


def test_torch_is_imported_by_training_alone(root: Path) -> None:
    strays = [i for p in ("engines", "streamer") for i in package_imports(root, p) if is_within(i[1], "torch")]
    assert [i for i in strays if i[0] != "engines/backends/torch.py"] == []


@pytest.mark.parametrize("module", ["av", "aiortc", "m3u8"])
def test_media_libraries_are_imported_by_sources_alone(root: Path, module: str) -> None:
    importers = {
        path
        for p in ("engines", "streamer", "training")
        for path, name in package_imports(root, p)
        if is_within(name, module)
    }
    assert importers
    assert all(path.startswith("streamer/sources/") for path in importers)


@pytest.mark.parametrize("module", sorted(OWNERS))
def test_a_library_has_one_importer(root: Path, module: str) -> None:
    importers = {
        path
        for package in ("engines", "streamer", "training")
        for path, name in package_imports(root, package)
        if is_within(name, module)
    }
    assert importers == OWNERS[module]


@pytest.mark.parametrize(
    "module", ["streamer.cli", "streamer.pipeline", "streamer.demo", "streamer.watch", "training.metric"]
)
def test_the_live_path_and_the_metric_load_no_torch(root: Path, module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
