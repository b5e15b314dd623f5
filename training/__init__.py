"""Making the models, offline; the only package that needs torch."""
