"""The engine: one use case a file. Operations return results and never print."""
