"""The errors a user of the pipeline may see: what happened, and what to do about it.

Every error the package raises on purpose is defined here. Raising, retrying and logging belong to the modules that
meet the trouble; no message ever holds a key or a signing secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_NAMED = 5  # objects in a sentence
# A key may be shown whole, or masked as Stripe's messages do: `rk_live_****1234` or `rk_live_...1234`.
_SECRET = re.compile(r"((?:sk|rk)_(?:live|test)_|whsec_)(?:[\w*]|\.(?=[\w.*]))+", re.ASCII)
_CLIENT_SECRET = re.compile(
    r"(?:\b|(?<=%[0-9A-Fa-f]{2}))((?:accs|cs|cuss|fcsess|pi|seti|src|vs)_(?:\w+_)?secret_)\w+", re.ASCII
)
# In a path an `@` is percent-encoded. What stands before one in the address of a server is a user of that server.
_LOCAL_PART = r"[\w.!#$%+^|~-]"
_LOGIN_OR_EMAIL = re.compile(
    r"(?P<user>://[^\s/?#@:]*:)(?P<password>[^\s/?#@]+)@|"
    rf"(?<!//)(?<!{_LOCAL_PART})(?<!{_LOCAL_PART}')"  # from where it begins, so that a long text takes linear time
    rf"{_LOCAL_PART}+(?:'{_LOCAL_PART}+)*(?:@|%40)(?:[\w-]+\.)*[\w-]+",
    re.IGNORECASE,
)
_PLACEHOLDER = "password"  # in the addresses that remedies give as examples


def scrub(text: str) -> str:
    """`text` without secrets and people's data: everything that looks like a Stripe key, signing secret or client
    secret is cut to its prefix, and every e-mail address and every password in a URL is replaced.

    Stripe's messages repeat what they complain about (`Invalid email address: …`), and a customer's id may be an
    e-mail address. Every error of this package is scrubbed, and so is what is logged of others' errors.
    """
    return _LOGIN_OR_EMAIL.sub(_replaced, scrub_client_secrets(_SECRET.sub(r"\1…", text)))


def _replaced(match: re.Match[str]) -> str:
    """What stands in place of an e-mail address, or of the login of a URL."""
    if match["user"] is None:
        return "<e-mail address>"
    return match[0] if match["password"] == _PLACEHOLDER else f"{match['user']}***@"


def scrub_client_secrets(text: str) -> str:
    """`text` with the client secrets of payment intents, setup intents, sources and sessions cut to their prefix.

    They also stand in addresses that Stripe sends, for example `next_action.redirect_to_url.url`.
    """
    return _CLIENT_SECRET.sub(r"\1…", text)


def shown(value: object) -> str:
    """`value`, of JSON, as an error may show it: numbers as they are, of anything else only what it is.

    A value of the wrong type may be any part of an object, and so hold what the settings leave out.
    """
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    return "an object" if isinstance(value, dict) else "a list"


class StripePipelineError(Exception):
    """Something went wrong that the user can act on.

    `what` says what happened and `remedy` what to do, each in a sentence; both are scrubbed of secrets.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what = scrub(what).rstrip(". ")
        self.remedy = scrub(remedy).rstrip(". ")
        super().__init__(self.what, self.remedy)

    def __str__(self) -> str:
        return f"{self.what}. {self.remedy}."


class SettingsError(StripePipelineError):
    """The settings file or the environment says something that cannot work."""


class PortTaken(SettingsError):
    """Another program listens where one of ours should."""


class WarehouseError(StripePipelineError):
    """The database, or the folder it is kept in, cannot be used as asked."""


class BadObject(StripePipelineError):
    """An object of Stripe's that cannot become a row, or cannot be asked for."""


class Cancelled(StripePipelineError):
    """The client was closed while this request was waiting; nothing is wrong with Stripe or the settings."""

    def __init__(
        self,
        what: str = "The Stripe client was closed before the request was answered",
        remedy: str = "Start again; the next run goes on from where this one stopped",
    ) -> None:
        super().__init__(what, remedy)


class ApiError(StripePipelineError):
    """Stripe did not give what was asked for.

    `path` is what was read, `status` the HTTP status (none if there was no answer), `code` Stripe's error code and
    `request_id` the id by which the Stripe Dashboard and Stripe's support find the request.
    """

    def __init__(
        self,
        what: str,
        remedy: str,
        *,
        path: str = "",
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(what, remedy)
        self.path = path
        self.status = status
        self.code = code
        self.request_id = request_id


class AuthenticationFailed(ApiError):
    """Stripe does not know the key (401)."""


class PermissionMissing(ApiError):
    """The key may not read this (403).

    `permission` is the one Stripe names, for example `rak_charge_read`, and `account` the account that Stripe says the
    key belongs to, for example `acct_1`; each is None where Stripe does not say.
    """

    permission: str | None = None
    account: str | None = None

    def learn(self, message: str) -> None:
        """Take the permission and the account from Stripe's `message`, which has one of two forms:

        `… on account 'acct_1'. Having the 'rak_charge_read' permission would allow this request to continue.`
        `… on account 'acct_1'. Enabling "Charges and Refunds Read" ('charge_read') permissions on this key would …`
        """
        # Any other account that a message names, such as one the key has no access to, is not the key's own.
        account = re.search(r"\bon account '(acct_\w+)'", message, re.ASCII)
        permission = re.search(r"'(rak_\w+|\w+_(?:read|write))'", message, re.ASCII)
        self.account = account[1] if account else None
        self.permission = permission[1] if permission else None


class RequestRefused(ApiError):
    """Stripe refused the request as it stands (400 and others); asking again will not help."""


class NotFound(ApiError):
    """Stripe has no such object (404, or any refusal with the code `resource_missing`)."""


class CursorLost(NotFound):
    """The object that `starting_after` names is gone: read that window again from its start."""


class Unavailable(ApiError):
    """Still failing after every retry: 429, 5xx, no connection, a cut body, or something that is not Stripe's JSON."""


class ObjectsUnread(StripePipelineError):
    """Single objects of a type, or days of it, could not be read; everything else of it was."""

    def __init__(self, problems: Mapping[str, StripePipelineError]) -> None:
        """`problems` are the errors by id or day."""
        named = [f"{name}: {error.what}" for name, error in list(problems.items())[:_NAMED]]
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        super().__init__(
            f"{len(problems)} could not be read ({'; '.join(named)}{more})",
            "Everything else of this type was stored. Objects are tried again after growing pauses, five times in all;"
            " the table pipeline.inbox shows them, and `stripe-pipeline webhooks retry` tries again those given up",
        )


class OutOfTime(Unavailable):
    """The run's time was up before this was read; nothing is wrong with what was asked for.

    `last_seen` is what the last attempt met, if there was one.
    """

    def __init__(self, path: str, *, last_seen: str = "") -> None:
        seen = f"; the last attempt met {last_seen}" if last_seen else ""
        super().__init__(
            f"The time for this run was up before GET {path} was answered{seen}",
            "The next run goes on from where this one stopped",
            path=path,
        )


def by_cause(failures: Mapping[str, StripePipelineError]) -> list[tuple[list[str], StripePipelineError]]:
    """What failed, by name, put together where the cause is one and the same, with the first one's error."""
    causes: dict[object, tuple[list[str], StripePipelineError]] = {}
    for name, error in failures.items():
        # Requests to different addresses that met the same trouble differ in nothing but their address.
        cause = (error.status, error.code) if isinstance(error, Unavailable) else str(error)
        causes.setdefault(cause, ([], error))[0].append(name)
    return list(causes.values())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix that suggests the closest of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
