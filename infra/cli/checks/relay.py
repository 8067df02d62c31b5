"""The relay: does it take our connection, our TLS and our login. No mail is sent, no sender is named."""

import asyncio
import socket
import ssl

import aiosmtplib

from infra.cli.checks.finding import ANSWER_S_MAX, Finding, Report, info, ok, problem
from infra.cli.lines import printable
from infra.cli.where import Place, without_password
from infra.settings import RelayAddress, SmtpMode
from schemas.addresses import without_addresses

_SETTING = "RELEVO_SMTP_URL"


def check_relay(place: Place, report: Report) -> None:
    """Look at the relay."""
    asyncio.run(_check(place, report))


async def _check(place: Place, report: Report) -> None:
    address = RelayAddress.parse(place.settings.smtp_url)
    try:
        tls = ssl.create_default_context(cafile=place.settings.smtp_ca_file)
    except (OSError, ssl.SSLError) as error:
        detail = f"{place.settings.smtp_ca_file} holds no certificates that can be read: {error.strerror or error}"
        report(problem("relay", detail, "Correct RELEVO_SMTP_CA_FILE."))
        return
    where = without_password(place.settings.smtp_url)
    client = aiosmtplib.SMTP(
        hostname=address.host,
        port=address.port,
        timeout=ANSWER_S_MAX,
        use_tls=address.mode is SmtpMode.TLS,
        start_tls=False,
        tls_context=tls if address.mode is SmtpMode.TLS else None,
        local_hostname=socket.gethostname(),
    )
    try:
        done = await _greet(client, address, tls)
        report(ok("relay", f"{where} answers{''.join(f', {step}' for step in done)}"))
        if address.mode is SmtpMode.PLAIN and client.supports_extension("starttls"):
            report(info("relay", f"it offers encryption: add ?starttls=required to {_SETTING} to demand it"))
        await client.quit()
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        report(judge_failure(f"{where} ({place.origin(_SETTING)})", error, place.remedy(_SETTING)))
    finally:
        client.close()


async def _greet(client: aiosmtplib.SMTP, address: RelayAddress, tls: ssl.SSLContext) -> list[str]:
    await client.connect()
    await client.ehlo()
    done = ["TLS is good"] if address.mode is SmtpMode.TLS else []
    if address.mode is SmtpMode.STARTTLS:
        await client.starttls(tls_context=tls)
        await client.ehlo()
        done.append("STARTTLS is good")
    if address.user is not None and address.password is not None:
        await client.login(address.user, address.password)
        done.append("login is good")
    return done


def judge_failure(where: str, error: Exception, remedy: str) -> Finding:
    """Say what the failure of a conversation with the relay at *where* means."""
    # The library wraps what happened while it connected.
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    match cause:
        case ssl.SSLCertVerificationError():
            return problem(
                "relay",
                f"the certificate of {where} is not trusted: {getattr(cause, 'verify_message', cause)}",
                "Correct the host name, or let RELEVO_SMTP_CA_FILE name the authority that signed it.",
            )
        case ssl.SSLError():
            detail = f"{where} speaks no TLS that we understand: {getattr(cause, 'reason', cause)}"
            return problem(
                "relay", detail, "smtps:// is for port 465; on other ports use smtp://...?starttls=required."
            )
        case socket.gaierror():
            return problem("relay", f"the name in {where} is not known", f"Correct {_SETTING}.")
        case aiosmtplib.SMTPAuthenticationError():
            said = printable(without_addresses(f"{cause.code} {cause.message}"))
            return problem("relay", f"{where} refuses the login: {said}", f"Correct user and password in {_SETTING}.")
        case aiosmtplib.SMTPNotSupported():
            return problem("relay", f"{where} does not offer it: {printable(str(cause))}", f"Correct {_SETTING}.")
        case aiosmtplib.SMTPResponseException():
            said = printable(without_addresses(f"{cause.code} {cause.message}"))
            return problem("relay", f"{where} refuses us: {said}", "Ask whoever runs it; its words say why.")
        case TimeoutError():  # the library's own is one, too
            return problem("relay", f"{where} does not answer within {ANSWER_S_MAX} s; it may hang", remedy)
        case ConnectionRefusedError():
            return problem("relay", f"{where} refuses connections; nothing listens there", remedy)
    return problem("relay", f"{where} cannot be reached: {printable(str(cause)) or type(cause).__name__}", remedy)
