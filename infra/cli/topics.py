"""`relevo topics apply`: the broker's topics as the catalogue in schemas.topics wants them."""

import typer

from infra.cli.output import AsJson, print_json
from infra.cli.waiting import wait_for_server
from infra.cli.where import find_place
from infra.kafka import apply_topics
from schemas.errors import TransientError

topics = typer.Typer(no_args_is_help=True, help="Kafka's topics.")


@topics.callback()
def _group() -> None:
    """Kafka's topics."""


@topics.command("apply")
def apply(*, as_json: AsJson = False) -> None:
    """
    Create the topics that are missing, add partitions, set retention and cleanup. Repeatable; takes nothing away.

    Waits up to 30 s for Kafka.
    """
    place = find_place()
    bootstrap, replication = place.settings.kafka_bootstrap, place.settings.topic_replication

    def act(_left_s: float) -> list[tuple[str, str]]:
        try:
            return apply_topics(bootstrap, replication=replication)
        except TimeoutError as error:
            raise TransientError("it took a request and did not answer") from error

    remedy = place.remedy("RELEVO_KAFKA_BOOTSTRAP")
    done = wait_for_server(f"Kafka at {bootstrap}", remedy, act)
    if as_json:
        print_json({"topics": [{"topic": topic, "done": what} for topic, what in done]})
        return
    for topic, what in done:
        print(f"{topic}: {what}")
