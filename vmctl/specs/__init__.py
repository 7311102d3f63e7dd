"""Files and flags become specs: read, check, merge."""
