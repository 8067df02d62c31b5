"""
The HTTP side for tests and tools: mails as JSON, and the scenario of the whole relay. `page.py` is for people.

    GET    /api/messages?to=&notification_id=&message_id=&search=&limit=   summaries, the newest first; see Query
    GET    /api/messages/{n}                                               one, with headers, text and html
    GET    /api/messages/{n}/raw                                           as it came
    DELETE /api/messages                                                   empties the mailbox
    GET    /api/counts                                                     mails of each notification id; "": of none
    GET    /api/scenario                                                   what the whole relay does now
    POST   /api/scenario                                                   changes what is given, answers as GET
           {"scenario": "451x3"}    for recipients without a scenario of their own; null: none
           {"sender": "550x3"}      how MAIL is refused; null: it is accepted
           {"accepting": false}     421 instead of the banner
    GET    /readyz

Mistakes of the caller are answered with 400 and {"error": sentence}.
"""

import json
from dataclasses import asdict
from typing import Any

import orjson
from aiohttp import web

from infra.mailbox.reading import read_mail
from infra.mailbox.scenarios import Act, Scenario, Script, Step, parse_scenario
from infra.mailbox.store import MailStore, Query

LIMIT_MAX = 10_000
_CHANGES = {"scenario", "sender", "accepting"}


def routes(store: MailStore, script: Script) -> list[web.RouteDef]:
    """Return the routes of the table above."""
    api = _Api(store, script)
    return [
        web.get("/api/messages", api.messages),
        web.get("/api/messages/{n:[0-9]{1,9}}", api.message),
        web.get("/api/messages/{n:[0-9]{1,9}}/raw", api.raw),
        web.delete("/api/messages", api.clear),
        web.get("/api/counts", api.counts),
        web.get("/api/scenario", api.scenario),
        web.post("/api/scenario", api.set_scenario),
        web.get("/readyz", api.ready),
    ]


def query_of(request: web.Request) -> Query:
    """
    Read the filters of a request.

    Raises:
        web.HTTPBadRequest: limit is no number from 1 to LIMIT_MAX.
    """
    given = request.query
    try:
        limit = int(given.get("limit", "100"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= LIMIT_MAX:
        raise _bad_request(f"limit is a number from 1 to {LIMIT_MAX}")
    return Query(
        to=_address(given.get("to")),
        search=_address(given.get("search")),
        message_id=given.get("message_id") or None,
        notification_id=given.get("notification_id") or None,
        limit=limit,
    )


def number_of(request: web.Request) -> int:
    """Return the number of the mail that the path names."""
    return int(request.match_info["n"])


class _Api:
    """The handlers; one method for each line of the table above."""

    def __init__(self, store: MailStore, script: Script) -> None:
        self._store = store
        self._script = script

    async def messages(self, request: web.Request) -> web.Response:
        return _json(self._store.find(query_of(request)))

    async def message(self, request: web.Request) -> web.Response:
        n = number_of(request)
        summary, mail = self._store.summary(n), self._store.raw(n)
        if summary is None or mail is None:
            raise _no_such(n)
        return _json(asdict(summary) | asdict(read_mail(mail)))

    async def raw(self, request: web.Request) -> web.Response:
        n = number_of(request)
        mail = self._store.raw(n)
        if mail is None:
            raise _no_such(n)
        headers = {"Content-Disposition": f'attachment; filename="mail-{n}.eml"', "X-Content-Type-Options": "nosniff"}
        return web.Response(body=mail, content_type="message/rfc822", headers=headers)

    async def clear(self, _request: web.Request) -> web.Response:
        return _json({"deleted": self._store.clear()})

    async def counts(self, _request: web.Request) -> web.Response:
        return _json(self._store.counts())

    async def scenario(self, _request: web.Request) -> web.Response:
        script = self._script
        return _json(
            {
                "scenario": None if script.relay is None else str(script.relay),
                "sender": None if script.sender is None else str(script.sender),
                "accepting": script.accepting,
            }
        )

    async def set_scenario(self, request: web.Request) -> web.Response:
        # Asked for by name: a form on a page of somebody else cannot send this type without the browser asking us.
        if request.content_type != "application/json":
            raise _bad_request("the body is application/json")
        body = _changes(await request.read())
        accepting = body.get("accepting", self._script.accepting)
        if not isinstance(accepting, bool):
            raise _bad_request("accepting is true or false")
        # All is read before anything is set: a body with a mistake changes nothing.
        relay = _relay_scenario(body.get("scenario"))
        sender = _sender_refusal(body.get("sender"))
        if "scenario" in body:
            self._script.relay = relay
        if "sender" in body:
            self._script.sender = sender
        self._script.accepting = accepting
        return await self.scenario(request)

    async def ready(self, _request: web.Request) -> web.Response:
        return _json({"ready": True, "mails": len(self._store)})


def _changes(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict) or not value or value.keys() - _CHANGES:
        raise _bad_request(f"the body is a JSON object with some of {', '.join(sorted(_CHANGES))}")
    return value


def _relay_scenario(text: object) -> Scenario | None:
    if text is None:
        return None
    scenario = parse_scenario(text) if isinstance(text, str) else None
    if scenario is None:
        raise _bad_request('scenario is null or one of the table in infra/mailbox/scenarios.py, such as "451x3"')
    return scenario


def _sender_refusal(text: object) -> Scenario | None:
    if text is None:
        return None
    scenario = parse_scenario(text) if isinstance(text, str) else None
    if scenario is None or scenario.act is not Act.REFUSE or scenario.at is not Step.RCPT:
        raise _bad_request('sender is null or a code from 400 to 599, such as "550" or "451x3"')
    return scenario


def _address(value: str | None) -> str | None:
    # "+" in a query is a space, which no address has: whoever forgot to write %2B means the "+" of a scenario.
    return value.strip().replace(" ", "+") if value else None


def _bad_request(sentence: str) -> web.HTTPBadRequest:
    return web.HTTPBadRequest(text=json.dumps({"error": sentence}), content_type="application/json")


def _no_such(n: int) -> web.HTTPNotFound:
    return web.HTTPNotFound(text=json.dumps({"error": f"there is no mail {n}"}), content_type="application/json")


def _json(value: object) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), content_type="application/json", headers={"Cache-Control": "no-store"}
    )
