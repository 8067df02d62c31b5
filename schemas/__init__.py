"""The nouns of relevo: messages, states, topics, tables, errors. Nothing in here does I/O."""
