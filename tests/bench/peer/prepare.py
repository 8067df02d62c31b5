"""Make the peer's tables."""

import os

import django
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_peer.settings")
django.setup()

from bench_peer.models import Notification  # noqa: E402 -- only after setup

with connection.schema_editor() as editor:
    editor.create_model(Notification)
