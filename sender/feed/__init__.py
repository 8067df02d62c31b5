"""The feed: what is made of notifications.results for others to look at, or to be told. Nothing is decided here."""
