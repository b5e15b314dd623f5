"""Runtimes behind one Engine protocol; each module is the only importer of its library."""
