import uuid

from django.urls import path
from rest_framework import serializers
from rest_framework.response import Response
from rest_framework.views import APIView

from bench_peer.celery import app
from bench_peer.models import Notification
from bench_peer.tasks import deliver


class NotificationSerializer(serializers.Serializer):
    id = serializers.UUIDField(required=False)
    channel = serializers.ChoiceField(choices=["email"])
    recipient = serializers.EmailField()
    subject = serializers.CharField(max_length=200)
    body = serializers.CharField(max_length=10_000)


class NotifyView(APIView):
    def post(self, request):
        serializer = NotificationSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        made = Notification.objects.create(**(serializer.validated_data | {"id": uuid.uuid4()}))
        deliver.delay(str(made.id))
        return Response({"id": str(made.id), "status": "queued"}, status=202)


class BatchView(APIView):
    """What no tutorial has, and a careful team would write: one insert for all, one pipeline to the broker."""

    def post(self, request):
        serializer = NotificationSerializer(data=request.data["items"], many=True)
        serializer.is_valid(raise_exception=True)
        made = Notification.objects.bulk_create(
            [Notification(**(item | {"id": uuid.uuid4()})) for item in serializer.validated_data]
        )
        with app.producer_pool.acquire(block=True) as producer:
            for each in made:
                deliver.apply_async((str(each.id),), producer=producer)
        return Response({"items": [{"id": str(each.id), "status": "queued"} for each in made]}, status=202)


urlpatterns = [path("api/notify/", NotifyView.as_view()), path("api/notify/batch", BatchView.as_view())]
