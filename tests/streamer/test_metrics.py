import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from engines.bundle import BundleName
from engines.decider import Spot, State
from engines.second import FORCED
from streamer.ingest.messages import Counts, SourceChanged
from streamer.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


def word(state: State = "confirmed", identifier: str = "1", flags: tuple[str, ...] = ()) -> Spot:
    latency = {"hold": 2.0, "compute": 0.1}
    return Spot(identifier, "main", 1, 0, "Goal", 1.0, 0.9, 8.0, state, 1, latency, flags)


def described() -> Metrics:
    metrics = Metrics()
    metrics.describe("1.2.3", BundleName("demo", "abc"), {"Goal": 4.5, "Corner": 5.0}, {"Goal": 4.5})
    return metrics


def test_counts_of_two_halves_add_up_even_when_the_first_was_tiny() -> None:
    metrics = Metrics()
    metrics.count(1, Counts(frames=20, decode_errors=1))
    metrics.count(1, Counts(frames=25, decode_errors=3, stale_seconds=1))
    metrics.count(2, Counts(frames=30))
    metrics.count(2, Counts(frames=60, decode_errors=1, stale_seconds=1))
    assert value(metrics, "touchline_frames_decoded_total") == 85
    assert value(metrics, "touchline_frames_dropped_total", cause="decode_error") == 4
    assert value(metrics, "touchline_seconds_dropped_total", cause="stale") == 2


def test_seconds_without_sound_are_counted() -> None:
    metrics = Metrics()
    metrics.count(1, Counts())
    metrics.count(1, Counts(), frozenset({"no-audio", "gap"}))
    assert value(metrics, "touchline_seconds_flagged_total", flag="no-audio") == 1
    assert value(metrics, "touchline_seconds_flagged_total", flag="corrupt") == 0


def test_a_source_is_in_one_state_and_its_faults_are_counted_by_cause() -> None:
    metrics = Metrics()
    for state, cause in (
        ("opening", None),
        ("running", None),
        ("waiting", "stalled"),
        ("opening", "stalled"),
        ("waiting", "unreachable"),
        ("running", None),
    ):
        metrics.source_changed(SourceChanged(1, state, cause))  # type: ignore[arg-type]
    assert value(metrics, "touchline_source_state", state="running") == 1
    assert value(metrics, "touchline_source_state", state="waiting") == 0
    assert value(metrics, "touchline_source_failures_total", cause="stalled") == 1
    assert value(metrics, "touchline_source_failures_total", cause="unreachable") == 1
    assert value(metrics, "touchline_stream_up") == 1


def test_every_word_is_counted_by_what_it_is() -> None:
    metrics = Metrics()
    for _ in range(3):
        metrics.count_word(word("provisional"), missed=False)
    metrics.count_word(word("retracted", flags=(FORCED,)), missed=False)
    metrics.count_word(word("confirmed"), missed=True)
    metrics.withheld("Goal")
    assert value(metrics, "touchline_spots_provisional_total", label="Goal") == 3
    assert value(metrics, "touchline_spots_retracted_total", label="Goal") == 1
    assert value(metrics, "touchline_spots_total", label="Goal") == 1
    assert value(metrics, "touchline_spots_withheld_total", label="Goal") == 1
    assert value(metrics, "touchline_decisions_forced_total", label="Goal") == 1
    assert value(metrics, "touchline_deadline_missed_total") == 1
    assert value(metrics, "touchline_spot_latency_seconds_count", part="hold") == 1
    assert value(metrics, "touchline_spot_delay_seconds_sum", label="Goal") == 7.0


def test_delivery_shows_what_publisher_and_outbox_tell() -> None:
    metrics = Metrics()
    for up in (True, False, True):
        metrics.on_connected(up)
    metrics.on_published(0.02)
    metrics.on_publish_failed()
    metrics.on_pending(7)
    metrics.on_dropped(2)
    assert value(metrics, "touchline_outbox_durable") == 1
    metrics.on_durable(False)
    assert value(metrics, "touchline_outbox_durable") == 0
    assert value(metrics, "touchline_broker_up") == 1
    assert value(metrics, "touchline_broker_connections_total") == 2
    assert value(metrics, "touchline_publish_failures_total") == 1
    assert value(metrics, "touchline_queue_depth", queue="spots") == 7
    assert value(metrics, "touchline_spots_dropped_total") == 2
    assert value(metrics, "touchline_spot_latency_seconds_count", part="publish") == 1


def test_a_command_that_does_not_exist_makes_no_series_of_its_own() -> None:
    metrics = Metrics()
    metrics.commanded("mute", True)
    for n in range(50):
        metrics.commanded(f"nonsense-{n}", False)
    assert value(metrics, "touchline_commands_total", command="mute", result="obeyed") == 1
    assert value(metrics, "touchline_commands_total", command="other", result="refused") == 50
    assert b"nonsense" not in metrics.text()


def test_a_run_shows_its_version_bundle_promise_and_deadlines() -> None:
    metrics = described()
    assert value(metrics, "touchline_build_info", version="1.2.3", bundle="demo", digest="abc") == 1
    assert value(metrics, "touchline_promised_delay_seconds", label="Corner") == 5.0
    assert value(metrics, "touchline_deadline_seconds", label="Goal") == 4.5
    assert metrics.registry.get_sample_value("touchline_deadline_seconds", {"label": "Corner"}) is None


def test_every_series_that_can_be_known_is_there_at_zero_before_anything_happens() -> None:
    metrics = described()
    for labelled in (
        {"name": "touchline_source_failures_total", "cause": "stalled"},
        {"name": "touchline_timeline_repairs_total", "cause": "discontinuity"},
        {"name": "touchline_seconds_flagged_total", "flag": "no-audio"},
        {"name": "touchline_spots_total", "label": "Corner"},
        {"name": "touchline_spots_withheld_total", "label": "Goal"},
        {"name": "touchline_spot_delay_seconds_count", "label": "Goal"},
        {"name": "touchline_spot_latency_seconds_count", "part": "publish"},
        {"name": "touchline_commands_total", "command": "pause", "result": "refused"},
    ):
        assert value(metrics, **labelled) == 0


def test_a_run_of_other_labels_leaves_no_promise_of_the_last_one() -> None:
    metrics = described()
    metrics.describe("1.2.3", BundleName("other", "def"), {"Foul": 3.0}, {})
    assert metrics.registry.get_sample_value("touchline_promised_delay_seconds", {"label": "Goal"}) is None
    assert metrics.text().count(b"touchline_build_info{") == 1


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "text/html;version=x"])
def test_whoever_does_not_ask_for_openmetrics_gets_the_plain_text(accept: str) -> None:
    body, content_type = described().exposition(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in body


def test_openmetrics_names_the_spot_behind_a_delay() -> None:
    metrics = described()
    metrics.count_word(word(identifier="0123456789abcdef0123"), missed=False)
    body, content_type = metrics.exposition("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}  # type: ignore[no-untyped-call]
    found = {
        sample.exemplar.labels["spot_id"]
        for sample in families["touchline_spot_delay_seconds"].samples
        if sample.exemplar is not None
    }
    assert found == {"0123456789abcdef0123"}


def test_no_series_says_when_another_was_created() -> None:
    assert not re.search(rb"_created\b", described().text())
