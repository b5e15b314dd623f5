from streamer.ingest import Counts
from streamer.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = metrics.registry.get_sample_value(name, labels)
    assert found is not None
    return found


def test_counts_of_two_halves_add_up_even_when_the_first_was_tiny() -> None:
    metrics = Metrics()
    metrics.count(1, Counts(frames=20, decode_errors=1))
    metrics.count(1, Counts(frames=25, decode_errors=3, shed_seconds=1))
    metrics.count(2, Counts(frames=30, shed_seconds=1))
    metrics.count(2, Counts(frames=60, decode_errors=1, shed_seconds=2))
    assert value(metrics, "touchline_frames_decoded_total") == 85
    assert value(metrics, "touchline_frames_dropped_total", cause="decode_error") == 4
    assert value(metrics, "touchline_seconds_dropped_total", cause="shed") == 2
