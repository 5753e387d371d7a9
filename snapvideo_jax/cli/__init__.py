"""The command line: parsers, one thin module a verb, and user errors."""
