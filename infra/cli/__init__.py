"""The command line: `relevo`, or `python -m infra.cli`. One module for each command, named like it."""
