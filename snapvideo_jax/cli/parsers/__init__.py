"""Options of all verbs; nothing heavy is imported for them."""
