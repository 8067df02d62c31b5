"""The sender: hands each deduplicated notification to the relay at most once, and says what came of it."""
