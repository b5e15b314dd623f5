"""What all tests share: the hypothesis profile, and where the optional shared data is."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"

sys.path.insert(0, str(ROOT / "tests"))  # for fakes.py
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("ci")


def pytest_report_header() -> str:
    there = SHARED.is_dir()
    return f"shared data: {'found' if there else 'not there; tests that need it are skipped and say so'} (../shared)"


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture
def sample() -> Path:
    return ROOT / "samples" / "broadcast.ts"


@pytest.fixture
def demo_bundle() -> Path:
    return ROOT / "bundles" / "demo"
