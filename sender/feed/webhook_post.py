"""One attempt: a signed POST to a receiver that nobody here trusts."""

import asyncio
import ssl
from datetime import datetime
from pathlib import Path

import aiohttp
from yarl import URL

from infra.egress import Egress, ForbiddenAddressError
from schemas.results import now
from schemas.webhooks import read_url, signed_headers
from sender.feed.webhook_answers import Answer, read_retry_after
from sender.feed.webhook_ledger import Claim

CONNECT_S_MAX = 5.0
ATTEMPT_S_MAX = 15.0
# Nobody looks at it; what is read lets the connection be used again, and the rest is not worth its time.
ANSWER_BYTES_MAX = 16 * 1024

_HEADERS = {"Content-Type": "application/json", "User-Agent": "relevo-webhooks/1", "Accept-Encoding": "identity"}


class Poster:
    """
    Makes attempts. To be made and closed inside a running loop.

    Args:
        plain_allowed: whether http:// will do.
        ca_file: certificate authorities to trust; None: the system's.
    """

    def __init__(self, egress: Egress, *, plain_allowed: bool, ca_file: Path | None) -> None:
        self._plain_allowed = plain_allowed
        self._session = aiohttp.ClientSession(
            connector=egress.connector(ssl.create_default_context(cafile=ca_file)),
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_S_MAX, sock_connect=CONNECT_S_MAX),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            # A few bytes may unpack to gigabytes.
            auto_decompress=False,
            # No proxy that the environment names: it would connect to what nobody judged.
            trust_env=False,
        )

    async def close(self) -> None:
        """End every connection."""
        await self._session.close()

    async def post(self, claim: Claim) -> Answer:
        """Make one attempt, in at most ATTEMPT_S_MAX. What the receiver does is an answer, never an error."""
        try:
            # Once more: the profile may have changed since it was set.
            url = read_url(claim.url, plain_allowed=self._plain_allowed).url
        except ValueError:
            return Answer("url_refused")
        attempted_at = now()
        headers = signed_headers(
            event_id=str(claim.event_id), attempted_at=attempted_at, body=claim.body, secrets=claim.secrets
        )
        try:
            return await self._ask(url, claim.body, headers, attempted_at)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(_code(error))

    async def _ask(self, url: str, body: bytes, headers: dict[str, str], attempted_at: datetime) -> Answer:
        # encoded: what was signed for and looked at is what is asked for, letter by letter.
        async with self._session.post(
            URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as response:
            answer = Answer(
                f"http_{response.status}",
                response.status,
                read_retry_after(response.headers.get("Retry-After"), attempted_at),
            )
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    await _read_up_to(response, ANSWER_BYTES_MAX)
            except (aiohttp.ClientError, OSError, TimeoutError):
                # Its head has said all that counts.
                response.close()
            return answer


async def _read_up_to(response: aiohttp.ClientResponse, bytes_max: int) -> None:
    read = 0
    while chunk := await response.content.readany():
        read += len(chunk)
        if read > bytes_max:
            response.close()
            return


def _code(error: Exception) -> str:
    inner = getattr(error, "os_error", error)
    if isinstance(inner, ForbiddenAddressError):
        return "forbidden_address"
    match error:
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientConnectorDNSError():
            return "unresolvable"
        case aiohttp.ClientSSLError():
            return "tls_failed"
        case aiohttp.ClientConnectorError() | ConnectionRefusedError():
            return "connection_failed"
    return "connection_lost"
