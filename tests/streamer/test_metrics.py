from engines.decider import Spot, State
from engines.second import FORCED
from streamer.ingest.messages import Counts, SourceChanged
from streamer.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


def test_counts_of_two_halves_add_up_even_when_the_first_was_tiny() -> None:
    metrics = Metrics()
    metrics.count(1, Counts(frames=20, decode_errors=1))
    metrics.count(1, Counts(frames=25, decode_errors=3, stale_seconds=1))
    metrics.count(2, Counts(frames=30))
    metrics.count(2, Counts(frames=60, decode_errors=1, stale_seconds=1))
    assert value(metrics, "touchline_frames_decoded_total") == 85
    assert value(metrics, "touchline_frames_dropped_total", cause="decode_error") == 4
    assert value(metrics, "touchline_seconds_dropped_total", cause="stale") == 2


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

    def say(state: State, missed: bool = False, flags: tuple[str, ...] = ()) -> None:
        latency = {"hold": 2.0, "compute": 0.1}
        metrics.count_word(Spot("1", "main", 1, 0, "Goal", 1.0, 0.9, 8.0, state, 1, latency, flags), missed=missed)

    for _ in range(3):
        say("provisional")
    say("retracted", flags=(FORCED,))
    say("confirmed", missed=True)
    assert value(metrics, "touchline_spots_provisional_total", label="Goal") == 3
    assert value(metrics, "touchline_spots_retracted_total", label="Goal") == 1
    assert value(metrics, "touchline_spots_total", label="Goal") == 1
    assert value(metrics, "touchline_decisions_forced_total", label="Goal") == 1
    assert value(metrics, "touchline_deadline_missed_total") == 1
    assert value(metrics, "touchline_spot_latency_seconds_count", part="hold") == 1
