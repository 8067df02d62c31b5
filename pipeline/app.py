"""The Faust app and its table, and nothing else."""

import os
import tempfile
from pathlib import Path

import faust

from infra.kafka import METADATA_AGE_MS_MAX
from infra.settings import Settings
from pipeline.table import RedisTable
from schemas.topics import PIPELINE_GROUP, RECORD_BYTES_MAX


def make_app(settings: Settings, instance: str) -> tuple[faust.App, RedisTable]:
    """
    Return the app, not started, and the table that is declared beside it.

    Every setting that its authors' defaults would make unsafe or slow for us is spelled out.
    """
    app = faust.App(
        PIPELINE_GROUP,
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap.split(",")],
        broker_client_id=f"relevo-pipeline-{instance}",
        # A killed worker is replaced after the session timeout; with a stable name, a restarted one is not replaced.
        broker_session_timeout=12.0,
        broker_heartbeat_interval=2.0,
        # How long a broker may be silent (see infra.kafka); Faust refuses less than the session timeout.
        broker_request_timeout=12.0,
        consumer_metadata_max_age_ms=METADATA_AGE_MS_MAX,
        broker_commit_interval=1.0,
        consumer_group_instance_id=f"{PIPELINE_GROUP}.{settings.instance}" if settings.instance else None,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=RECORD_BYTES_MAX,
        stream_buffer_maxsize=1024,
        # Otherwise it makes topics of its own, with partition counts of its own.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # Its tables are not used; see pipeline.table.
        store="memory://",
        table_standby_replicas=0,
        web_enabled=False,
        # It makes this folder though it has nothing to keep; by default where it runs, which may be read-only.
        datadir=Path(tempfile.gettempdir()) / f"relevo-faust-{os.getuid()}",
        key_serializer="raw",
        value_serializer="raw",
    )
    table = RedisTable("dedupe", window_s=settings.dedupe_window_s, url=settings.redis_url)
    return app, table
