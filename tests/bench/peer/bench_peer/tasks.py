from celery import shared_task
from django.conf import settings
from django.core.mail import EmailMessage, get_connection

from bench_peer.models import Notification

_open = None


def _connection():
    """Return the connection to the relay: one for each worker process when tuned, else a new one for each mail."""
    global _open  # noqa: PLW0603 -- one per process
    if not settings.TUNED:
        return None
    if _open is None:
        _open = get_connection()
        _open.open()
    return _open


@shared_task(bind=True, max_retries=3)
def deliver(self, notification_id):
    notification = Notification.objects.get(pk=notification_id)
    try:
        EmailMessage(
            notification.subject, notification.body, to=[notification.recipient], connection=_connection()
        ).send()
    except OSError as error:
        raise self.retry(exc=error, countdown=5) from error
    Notification.objects.filter(pk=notification_id).update(status=1)
