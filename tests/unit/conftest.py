"""Generated examples are the same in every run, and no slow machine fails a test that only computes."""

from hypothesis import settings

settings.register_profile("unit", derandomize=True, deadline=None, database=None)
settings.load_profile("unit")
