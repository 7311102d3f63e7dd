"""The command line: a table of verbs, one module a verb, loaded when it is typed."""
