"""The controller: who may have how much of the host. Backends are never called from here."""
