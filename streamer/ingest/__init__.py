"""A source, read in processes that may be killed: from a URL to Seconds, through every fault."""
