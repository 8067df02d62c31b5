"""A PostgreSQL whose disk is full: nothing is accepted, nothing is half there, and it goes on when there is room."""

import pytest

NOTIFY = {"to": "receiver@example.com", "subject": "Alerta", "body": "Algo pasa."}

# What the server says when it cannot extend a file.
DISK_FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_room AFTER INSERT ON contents EXECUTE FUNCTION no_room();
"""


@pytest.fixture
async def full_disk(sql):
    """A way to make room again; the disk is full before."""
    await sql.execute(DISK_FULL)

    async def make_room():
        await sql.execute("DROP FUNCTION IF EXISTS no_room CASCADE")

    yield make_room
    await make_room()


async def test_with_a_full_disk_nothing_is_accepted_and_nothing_half_written(ingest, http, sql, full_disk):
    before = await sql.fetchval("SELECT count(*) FROM notifications")
    for path, body in (
        ("/api/notify/", NOTIFY),
        ("/api/contact/", {"name": "Elon", "email": "e@xcorp.com", "message": "Hola"}),
    ):
        answer = await http("POST", f"{ingest.url}{path}", json=body)
        assert (answer.status, answer.body["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert await sql.fetchval("SELECT count(*) FROM notifications") == before
    assert await sql.fetchval("SELECT count(*) FROM contact_messages WHERE email = 'e@xcorp.com'") == 0
    await full_disk()
    assert (await http("POST", f"{ingest.url}/api/notify/", json=NOTIFY)).status == 202
