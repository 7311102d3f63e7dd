"""Speed of vmctl beside that of the tools underneath: ``make bench``, or ``python -m contrib.bench --help``."""
