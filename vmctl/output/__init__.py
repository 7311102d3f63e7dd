"""The only place that writes: the answer to stdout, everything else to stderr."""
