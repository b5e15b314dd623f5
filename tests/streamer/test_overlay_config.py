import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import UsageError
from engines.labels import SOCCERNET_LABELS
from streamer.pages.app import STATIC
from streamer.pages.overlay import OverlayConfig, read_overlay, script
from streamer.pages.overlay_words import WORDS

SAMPLES = Path(__file__).parents[2] / "samples"


def refused(folder: Path, text: str) -> str:
    path = folder / "overlay.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_overlay(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert "\n" not in sentence
    assert "A-F" not in sentence, "no regular expression"
    return sentence.removeprefix(f"{path}: ")


def test_nothing_given_is_the_default() -> None:
    assert read_overlay(None) == OverlayConfig()
    assert read_overlay(None).labels[0] == "Goal"


def test_every_label_of_soccernet_has_words_in_six_languages() -> None:
    assert set(WORDS) == {"en", "de", "es", "fr", "it", "pt"}
    for words in WORDS.values():
        assert set(words) == set(SOCCERNET_LABELS)
        assert len(set(words.values())) == len(SOCCERNET_LABELS)


def test_the_sample_is_read_and_its_words_lie_over_ours() -> None:
    config = read_overlay(SAMPLES / "overlay.toml")
    assert config.programme_delay_s == 12
    assert config.durations_s == {"Goal": 10}
    assert config.text["de"]["Goal"] == "Tooor"
    assert config.text["de"]["Corner"] == "Eckball"
    assert config.text["fr"] == WORDS["fr"]


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text("")
    assert read_overlay(tmp_path / "empty.toml") == OverlayConfig()


def test_a_language_of_ones_own_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "overlay.toml"
    path.write_text('language = "nl"\n[text.nl]\nGoal = "Doelpunt"\n')
    assert read_overlay(path).text["nl"] == {"Goal": "Doelpunt"}


@pytest.mark.parametrize(
    ("text", "begins", "has"),
    [
        ('colour = "red"', "colour: there is no such key;", "labels"),
        ('[look]\ncolour = "red"', "look.colour: there is no such key;", "accent"),
        ('[mqtt]\nhost = "h"', "mqtt.host: there is no such key;", "url"),
        ('labels = "Goal"', "labels:", "list"),
        ("labels = []", "labels:", "at least 1"),
        ("latest_s = -1", "latest_s:", "0"),
        ("duration_s = 0.1", "duration_s:", "1"),
        ("provisional = 1", "provisional:", "boolean"),
        ("programme_delay_s = nan", "programme_delay_s:", "finite"),
        ("min_confidence = 40", "min_confidence:", "1"),
        ('[durations_s]\nGoal = "long"', "durations_s.Goal:", "number"),
        ('[look]\naccent = "red"', "look.accent: 'red' is no colour;", "#rrggbb"),
        ('[look]\nfont = "x; } body { color: red"', "look.font:", "families as in CSS"),
        ('[look]\nposition = "top"', "look.position:", "centre"),
        ('language = "nl"', "language: there are no words in 'nl'", "[text."),
        ('[mqtt]\nurl = "mqtt://broker"', "mqtt.url:", "wss://"),
        ('[mqtt]\nurl = "ws://[::1]:9001"', "mqtt.url:", "IPv4"),
        ('[mqtt]\nurl = "ws://a; script-src *"', "mqtt.url:", "wss://"),
        ('[mqtt]\nurl = "ws://broker:99999"', "mqtt.url:", "wss://"),
        ("labels", "the overlay's config is not TOML:", ""),
    ],
)
def test_a_mistake_is_said_in_one_sentence_with_the_keys_name(tmp_path: Path, text: str, begins: str, has: str) -> None:
    sentence = refused(tmp_path, text)
    assert sentence.startswith(begins)
    assert has in sentence
    assert sentence.endswith(".")


def test_credentials_in_the_brokers_url_are_refused_and_not_quoted(tmp_path: Path) -> None:
    assert "hunter2" not in refused(tmp_path, '[mqtt]\nurl = "wss://me:hunter2@broker:9001"')


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_overlay(tmp_path / "none.toml")


@given(st.binary(max_size=200))
def test_any_file_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    with suppress(UsageError):
        read_overlay(path)


def test_the_page_opened_from_a_file_has_the_same_defaults() -> None:
    """If this fails: python -m streamer.pages.overlay > streamer/pages/static/overlay_config.js."""
    assert (STATIC / "overlay_config.js").read_text(encoding="utf-8") == script(OverlayConfig())


def test_a_config_is_printed_as_the_pages_script_and_a_mistake_as_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamer.pages.overlay"]
    done = subprocess.run([*command, str(SAMPLES / "overlay.toml")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout == script(read_overlay(SAMPLES / "overlay.toml"))
    failed = subprocess.run([*command, str(tmp_path / "no.toml")], capture_output=True, text=True, timeout=60)
    assert failed.returncode != 0
    assert failed.stdout == ""
    assert "cannot be read" in failed.stderr
    assert "Traceback" not in failed.stderr
