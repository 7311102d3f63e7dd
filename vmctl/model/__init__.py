"""Pure values shared by every part: no I/O, no import of anything else of vmctl but errors and units."""
