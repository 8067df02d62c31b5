"""Migrations: they lead to exactly the tables that the code declares."""

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from infra.migrate import _with_connection, current_revision, newest_revision, upgrade
from schemas.tables import METADATA


async def test_the_migrations_make_the_tables_that_the_code_declares(database):
    found = []

    def compare(connection):
        options = {"compare_type": True, "compare_server_default": True}
        found.extend(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    await _with_connection(database, compare)
    assert found == []


async def test_the_checks_of_the_tables_are_those_that_the_code_declares(sql):
    rows = await sql.fetch("SELECT conname, pg_get_constraintdef(oid) AS check FROM pg_constraint WHERE contype = 'c'")
    found = {row["conname"]: row["check"] for row in rows}
    for table in METADATA.sorted_tables:
        for constraint in table.constraints:
            if constraint.__visit_name__ == "check_constraint":
                values = str(constraint.sqltext).split("IN (")[1].rstrip(")").replace("'", "").split(", ")
                assert all(f"'{value}'" in found[constraint.name] for value in values)


async def test_a_second_upgrade_changes_nothing(database):
    assert await upgrade(database) == (newest_revision(), newest_revision())
    assert await current_revision(database) == newest_revision()
