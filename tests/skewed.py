"""
`python -m tests.skewed`: the service SKEWED, whose clock is SKEW_S seconds off.

Its wall clock, that is: the one that can be set wrong. The monotonic clock is the machine's.
"""

import os
import runpy
import sys
from datetime import datetime, timedelta

SKEW = timedelta(seconds=float(os.environ.get("SKEW_S", "0")))


class Skewed(datetime):
    """What a service imports as datetime."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + SKEW


def main():
    """Have everything that was imported for the service, and asks for the time, ask the wrong clock."""
    service = os.environ["SKEWED"]
    __import__(f"{service}.__main__")
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in {service, "schemas", "infra"} and vars(module).get("datetime") is datetime:
            module.datetime = Skewed
    runpy.run_module(service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
