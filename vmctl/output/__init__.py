"""The only place that writes: the answer to stdout, everything else to stderr."""

SCHEMA = "vmctl/1"
"""Names the form of machine output; additive changes keep the number."""
