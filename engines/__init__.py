"""The pure middle: from one second of media to a spot. Arrays in, spots out; no clock, no I/O, no torch."""
