"""Labelled matches and the clips drawn from them."""
