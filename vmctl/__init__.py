"""vmctl: one command line and one resource ledger for virtual machines, containers and applications."""

__version__ = "0.1.0"
