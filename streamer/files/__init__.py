"""Files of what was said; the ending decides on the format (opening.py)."""
