"""The live world: what touches streams, clocks, brokers and people."""
