"""A client whose answer was lost on the way asks again, and finds that it was heard."""

import asyncio
import json
import socket
import uuid

NOTIFY = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}


async def test_who_never_got_the_answer_asks_ten_times_and_is_accepted_once(ingest, http, sql):
    identity = str(uuid.uuid4())
    body = json.dumps(NOTIFY | {"id": identity}).encode()
    head = (
        "POST /api/notify/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", ingest.http_port)) as connection:
            connection.sendall(head.encode() + body)
    answers = await asyncio.gather(
        *(http("POST", f"{ingest.url}/api/notify/", json=NOTIFY | {"id": identity}) for _ in range(10))
    )
    assert {answer.status for answer in answers} == {202}
    assert {answer.body["id"] for answer in answers} == {identity}
    assert len({answer.raw for answer in answers}) == 1, "the first answer again, whoever gave it"
    assert await sql.fetchval("SELECT count(*) FROM notifications WHERE id = $1", uuid.UUID(identity)) == 1
