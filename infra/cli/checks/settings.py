"""The settings: do they make sense, and would every service start with them."""

from infra.cli.checks.finding import Report, ok, problem
from infra.cli.where import Place
from schemas.errors import ConfigurationError

# What each service refuses to start without, outside the development profile.
_NEEDED = ("api_keys", "contact_recipients", "mail_from")


def check_settings(place: Place, report: Report) -> None:
    """Look at the settings, which have been read without an error already."""
    source = f", addresses from {place.home.stack_file}" if place.from_stack else ""
    report(ok("settings", f"the settings make sense (profile {place.settings.profile}{source})"))
    for name in _NEEDED:
        try:
            place.settings.require(name)
        except ConfigurationError as missing:
            remedy = "Set it, or give the doctor the environment that the services have."
            report(problem("settings", str(missing).partition(":")[0], remedy))
