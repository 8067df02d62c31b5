"""Webhooks: the reader of results that writes down who is to be told, and what tells them."""

import asyncio
from collections.abc import Sequence

import asyncpg
from aiokafka import ConsumerRecord

from infra.background import Background
from infra.egress import open_egress
from infra.failpoints import hit
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import WEBHOOK_DELIVERIES, WEBHOOK_OLDEST_SECONDS, WEBHOOKS_IN_TROUBLE
from infra.settings import Settings
from schemas.states import State
from schemas.topics import FEED_WEBHOOKS_GROUP
from schemas.webhooks import event_body, event_type
from sender.feed.reader import ResultsReader
from sender.feed.results import ResultRecord, readable
from sender.feed.webhook_lanes import Lanes
from sender.feed.webhook_ledger import NewDelivery, Watched, WebhookLedger
from sender.feed.webhook_post import Poster

log = get_logger()

TROUBLES_INTERVAL_S = 5.0
FAILING_S = 3600.0

SWEEP_INTERVAL_S = 60.0
SWEEP_ROWS_MAX = 5_000

_READER = "webhooks"


class WebhookResults:
    """
    Writes each result down for the webhook of its producer.

    Delivery: at least once; what is read again is found written. That the deliveries are durable before the offset is
    committed is all that ties the two together: a receiver that is away holds up no reader.
    """

    def __init__(self, ledger: WebhookLedger) -> None:
        self._ledger = ledger

    async def handle(self, records: Sequence[ConsumerRecord]) -> bool:
        """
        Write down who is to be told of *records*.

        Returns:
            Whether anybody is.
        Raises:
            TransientError: some may be written; call again with the same.
        """
        watched = await self._ledger.watched()
        if not watched:
            return False
        new = [
            _delivery(webhook, each)
            for each in readable(records, _READER)
            # Over HTTP the producer is the client. From Kafka it is whom the record names, whom we have to believe.
            if each.producer is not None
            and (webhook := watched.get(each.producer)) is not None
            and each.status in webhook.statuses
        ]
        if new:
            await self._ledger.write(new)
            hit("feed.after_webhooks_written")
        return bool(new)


def _delivery(webhook: Watched, result: ResultRecord) -> NewDelivery:
    kind = event_type(State(result.status))
    return NewDelivery(
        webhook=webhook.id,
        event_id=result.event_id,
        notification_id=result.id,
        type=kind,
        body=event_body(kind, result.occurred_at, result.record.value),
        occurred_at=result.occurred_at,
    )


class Webhooks:
    """
    All of it: the reader, the lanes, and what looks after them. To be made inside a running loop.

    Args:
        name: of this process, for its Kafka client.
    """

    def __init__(
        self, settings: Settings, pool: asyncpg.Pool, readiness: Readiness, background: Background, *, name: str
    ) -> None:
        self._ledger = WebhookLedger(pool, kept_s=settings.webhook_kept_s, clients=settings.clients())
        self._egress = open_egress(settings)
        self._poster = Poster(self._egress, plain_allowed=settings.development, ca_file=settings.webhook_ca_file)
        self._lanes = Lanes(self._ledger, self._poster, readiness, background, waits_s=settings.webhook_waits_s)
        self._results = WebhookResults(self._ledger)
        self._reader = ResultsReader(
            settings.kafka_bootstrap,
            group=FEED_WEBHOOKS_GROUP,
            name=f"{name}-{_READER}",
            handle=self._handle,
            readiness=readiness,
            background=background,
            static=bool(settings.instance),
        )
        background.start("webhook_troubles", self._tell_troubles, every_s=TROUBLES_INTERVAL_S)
        background.start("webhook_sweep", self._sweep, every_s=SWEEP_INTERVAL_S)

    async def run(self, stop: asyncio.Event) -> None:
        """Run until *stop*; returns when the batch in hand is written and no attempt is under way any more."""
        try:
            await self._reader.run(stop)
        finally:
            await self._lanes.drain()
            await self._poster.close()
            self._egress.close()

    async def _handle(self, records: Sequence[ConsumerRecord]) -> None:
        if await self._results.handle(records):
            await self._lanes.look()

    async def _tell_troubles(self) -> None:
        found = await self._ledger.troubles(failing_s=FAILING_S)
        WEBHOOKS_IN_TROUBLE.labels("disabled").set(found.disabled)
        WEBHOOKS_IN_TROUBLE.labels("failing").set(found.failing)
        WEBHOOKS_IN_TROUBLE.labels("keyless").set(found.keyless)
        WEBHOOK_OLDEST_SECONDS.set(found.oldest_s)

    async def _sweep(self) -> None:
        expired = await self._ledger.delete_old(rows_max=SWEEP_ROWS_MAX)
        if expired:
            WEBHOOK_DELIVERIES.labels("expired").inc(expired)
            log.warning("webhook_deliveries_expired", deliveries=expired)
