"""
The mail sink of the local stack and of the tests: a real SMTP server that keeps mails, shows them, and can misbehave.

Start with `scenarios.py` (what it can be told to do) and `server.py` (how the parts make one mailbox). `smtp.py` speaks
SMTP, `store.py` keeps the mails, `api.py` shows them to programs and `page.py` to people.
"""
