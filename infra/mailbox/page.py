"""
The page for people: the newest mails, one mail, its HTML in a cage. Everything in a mail is hostile and escaped here.

One page holds all that it needs, and its Content-Security-Policy allows that and nothing else: no network but this
mailbox, no script and no style but the two files beside this module, known by their hashes. The HTML of a mail is
only ever shown in a frame of its own without scripts, forms, links to the outside or pictures from there.
"""

import base64
import hashlib
from html import escape
from pathlib import Path

from aiohttp import web

from infra.mailbox.api import number_of, query_of
from infra.mailbox.reading import ReadMail, read_mail
from infra.mailbox.store import MailStore, Query, Summary

_STYLE = (Path(__file__).parent / "page.css").read_text("utf-8")
_SCRIPT = (Path(__file__).parent / "page.js").read_text("utf-8")
# What is shown of one mail: its text, its source, its header fields, its recipients in a list.
_CHARS_MAX = 200_000
_FIELDS_MAX = 200
_LISTED_RECIPIENTS_MAX = 5


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_COMMON = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_PAGE_HEADERS = {
    **_COMMON,
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:; "
        "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}
_CAGE_HEADERS = {
    **_COMMON,
    # sandbox here too: the frame's attribute does not help whoever opens the address by itself.
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
    ),
}


def routes(store: MailStore) -> list[web.RouteDef]:
    """Return the page's routes: / is the list, /messages/{n} one mail, /messages/{n}/html what its frame shows."""

    async def listing(request: web.Request) -> web.Response:
        return _html(_page("Mailbox", _list(store, query_of(request))), _PAGE_HEADERS)

    async def one(request: web.Request) -> web.Response:
        n = number_of(request)
        summary, mail = store.summary(n), store.raw(n)
        if summary is None or mail is None:
            return _html(_page("No such mail", f"<p>There is no mail {n}.</p>{_BACK}"), _PAGE_HEADERS, status=404)
        return _html(_page(summary.subject or _NO_SUBJECT, _mail(summary, read_mail(mail), mail)), _PAGE_HEADERS)

    async def cage(request: web.Request) -> web.Response:
        mail = store.raw(number_of(request))
        html = None if mail is None else read_mail(mail).html
        return _html(html or "", _CAGE_HEADERS, status=404 if html is None else 200)

    return [
        web.get("/", listing),
        web.get("/messages/{n:[0-9]{1,9}}", one),
        web.get("/messages/{n:[0-9]{1,9}}/html", cage),
    ]


_BACK = '<a href="/">&larr; All mails</a>'
_NO_SUBJECT = "(no subject)"


def _html(text: str, headers: dict[str, str], status: int = 200) -> web.Response:
    return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers, status=status)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}<script>{_SCRIPT}</script></body></html>"
    )


def _list(store: MailStore, query: Query) -> str:
    found = store.find(query)
    rows = "".join(map(_row, found)) or '<tr><td colspan="5" class="none">No mail here.</td></tr>'
    return (
        '<header><h1>Mailbox</h1><form role="search"><input type="search" name="search" aria-label="Search" '
        f'value="{escape(query.search or "")}" placeholder="Part of a recipient or of a notification id" '
        'autocomplete="off"></form><button type="button" id="empty" hidden>Delete all</button></header>'
        f'<p id="state" role="status"></p><main id="mails"><p class="quiet">{_how_many(len(found), len(store))}</p>'
        '<table class="list"><thead><tr><th scope="col" class="received">Received (UTC)</th>'
        '<th scope="col" class="to">To</th><th scope="col" class="subject">Subject</th>'
        '<th scope="col" class="from">From</th><th scope="col" class="size">Size</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></main>"
    )


def _how_many(shown: int, kept: int) -> str:
    mails = "1 mail" if kept == 1 else f"{kept:,} mails"
    return mails if shown == kept else f"{shown:,} of {mails}, the newest first"


def _row(summary: Summary) -> str:
    cells = {
        "received": escape(_moment(summary)[:19]),
        "to": escape(_recipients(summary)),
        "subject": f'<a href="/messages/{summary.n}">{escape(summary.subject or _NO_SUBJECT)}</a>',
        "from": escape(summary.mail_from or "<>"),
        "size": f"{summary.size_bytes:,} B",
    }
    return "<tr>" + "".join(f'<td class="{name}">{cell}</td>' for name, cell in cells.items()) + "</tr>"


def _recipients(summary: Summary) -> str:
    more = len(summary.rcpt_to) - _LISTED_RECIPIENTS_MAX
    return ", ".join(summary.rcpt_to[:_LISTED_RECIPIENTS_MAX]) + (f" and {more} more" if more > 0 else "")


def _moment(summary: Summary) -> str:
    # "2026-01-31T12:00:00.123+00:00" as people write it.
    return summary.received_at.replace("T", " ").removesuffix("+00:00")


def _mail(summary: Summary, content: ReadMail, mail: bytes) -> str:
    n = summary.n
    envelope = [
        ("From", summary.mail_from or "<>"),
        ("To", ", ".join(summary.rcpt_to)),
        ("Received", f"{_moment(summary)} UTC"),
        ("Notification", summary.notification_id or "(no X-Notification-Id)"),
        ("Size", f"{summary.size_bytes:,} bytes"),
        ("SHA-256", summary.sha256),
    ]
    parts = [
        f"<header>{_BACK}<h1>{escape(summary.subject or _NO_SUBJECT)}</h1></header><main>",
        _table(envelope),
        f"<h2>Text</h2>{_source(content.text)}" if content.text is not None else "",
        _frame(n) if content.html is not None else "",
        f"<h2>Other parts</h2><p>{escape(', '.join(content.attachments))}</p>" if content.attachments else "",
        f"<details><summary>Headers</summary>{_table(content.headers[:_FIELDS_MAX])}</details>",
        f'<details><summary>Source</summary><p><a href="/api/messages/{n}/raw">Download</a></p>',
        f"{_source(mail[:_CHARS_MAX].decode('utf-8', 'replace'))}</details></main>",
    ]
    return f'<div class="mail">{"".join(parts)}</div>'


def _source(text: str) -> str:
    return f"<pre>{escape(text[:_CHARS_MAX])}</pre>"


def _frame(n: int) -> str:
    return (
        '<h2>HTML</h2><p class="quiet">Without scripts, and without anything from the network.</p>'
        '<iframe title="The HTML of this mail" sandbox="" referrerpolicy="no-referrer" '
        f'src="/messages/{n}/html"></iframe>'
    )


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f'<table class="fields">{cells}</table>'
