"""
The local stack: real servers and the four services as processes of this machine, without Docker.

`make up`, `make down` and `make status` end up here. Nothing in the services knows of this package.
Read home.py (what lies where), child.py (a process that is provably ours), then keeper.py (who watches them).
"""
