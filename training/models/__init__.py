"""One file per architecture, model and loss together."""
