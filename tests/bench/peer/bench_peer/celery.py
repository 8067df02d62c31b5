import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "bench_peer.settings")
app = Celery("bench_peer")
if os.environ.get("PEER_TIER") == "tuned":
    # Without it Celery closes the database connection after every task, which is half of what a task costs. The
    # namespaced settings do not reach this key.
    app.conf.CELERY_DB_REUSE_MAX = 100_000
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
