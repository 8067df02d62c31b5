"""The pipeline: reads what was requested, drops what was provably forwarded before, forwards the rest once."""
