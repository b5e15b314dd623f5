"""What `benchmarks/fuzz.py` feeds to touchline, and how it watches what becomes of it."""
