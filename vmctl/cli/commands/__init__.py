"""One file per verb or group; each has a Typer application called ``app``."""
