"""The errors that users of the pipeline may see: what happened, and what to do about it.

Every error that the package raises on purpose is defined here. Other modules raise, retry and log errors. No message
ever contains a key or a signing secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

_NAMED = 5  # objects in a sentence
# A key may appear in full, or masked as in Stripe's messages: `rk_live_****1234` or `rk_live_...1234`.
_SECRET = re.compile(r"((?:sk|rk)_(?:live|test)_|whsec_)(?:[\w*]|\.(?=[\w.*]))+", re.ASCII)
_CLIENT_SECRET = re.compile(
    r"(?:\b|(?<=%[0-9A-Fa-f]{2}))((?:accs|cs|cuss|fcsess|pi|seti|src|vs)_(?:\w+_)?secret_)\w+", re.ASCII
)
# In a path an `@` is percent-encoded. In a server's address, the part before it is a user of that server.
_LOCAL_PART = r"[\w.!#$%+^|~-]"
_LOGIN_OR_EMAIL = re.compile(
    r"(?P<user>://[^\s/?#@:]*:)(?P<password>[^\s/?#@]+)@|"
    rf"(?<!//)(?<!{_LOCAL_PART})(?<!{_LOCAL_PART}')"  # matched from its start: a long text takes linear time
    rf"{_LOCAL_PART}+(?:'{_LOCAL_PART}+)*(?:@|%40)(?:[\w-]+\.)*[\w-]+",
    re.IGNORECASE,
)
_PLACEHOLDER = "password"  # in the addresses that remedies give as examples


def scrub(text: str) -> str:
    """`text` without secrets and people's data: everything that looks like a Stripe key, signing secret or client
    secret is cut to its prefix, and every e-mail address and every password in a URL is replaced.

    Stripe's messages repeat what they complain about (`Invalid email address: …`), and a customer's id may be an e-mail
    address. Every error of this package is scrubbed, and so are logged errors of other packages.
    """
    return _LOGIN_OR_EMAIL.sub(_replaced, scrub_client_secrets(_SECRET.sub(r"\1…", text)))


def _replaced(match: re.Match[str]) -> str:
    """The replacement of an e-mail address, or of a URL's login."""
    if match["user"] is None:
        return "<e-mail address>"
    return match[0] if match["password"] == _PLACEHOLDER else f"{match['user']}***@"


def scrub_client_secrets(text: str) -> str:
    """`text` with the client secrets of payment intents, setup intents, sources and sessions cut to their prefix.

    Such secrets also occur in URLs that Stripe sends, for example `next_action.redirect_to_url.url`.
    """
    return _CLIENT_SECRET.sub(r"\1…", text)


def shown(value: object) -> str:
    """A JSON `value` as an error may show it: numbers as they are, other values only by their type.

    A value of the wrong type may be any part of an object, and so hold fields that the settings leave out.
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
    """The settings file or the environment holds an invalid value."""


class PortTaken(SettingsError):
    """Another program listens on a port that the pipeline needs."""


class WarehouseError(StripePipelineError):
    """The database, or its folder, cannot be used as requested."""


class BadObject(StripePipelineError):
    """A Stripe object that cannot become a row, or cannot be requested."""


class Cancelled(StripePipelineError):
    """The client was closed while this request was waiting; nothing is wrong with Stripe or the settings."""

    def __init__(
        self,
        what: str = "The Stripe client was closed before the request was answered",
        remedy: str = "Start again; the next run continues where this one stopped",
    ) -> None:
        super().__init__(what, remedy)


class ApiError(StripePipelineError):
    """Stripe did not return the requested data.

    `path` is the path of the request, `status` the HTTP status (none if there was no answer), `code` Stripe's error
    code and `request_id` the id by which the Stripe Dashboard and Stripe's support find the request.
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
        """Extract the permission and the account from Stripe's `message`, which has one of two forms:

        `… on account 'acct_1'. Having the 'rak_charge_read' permission would allow this request to continue.`
        `… on account 'acct_1'. Enabling "Charges and Refunds Read" ('charge_read') permissions on this key would …`
        """
        # Any other account that a message names, such as one the key has no access to, is not the key's own.
        account = re.search(r"\bon account '(acct_\w+)'", message, re.ASCII)
        permission = re.search(r"'(rak_\w+|\w+_(?:read|write))'", message, re.ASCII)
        self.account = account[1] if account else None
        self.permission = permission[1] if permission else None


class RequestRefused(ApiError):
    """Stripe refused the request as it stands (400 and others); a retry will not help."""


class NotFound(ApiError):
    """Stripe has no such object (404, or any refusal with the code `resource_missing`)."""


class CursorLost(NotFound):
    """The object that `starting_after` names no longer exists: the window must be read again from its start."""


class Unavailable(ApiError):
    """Still failing after every retry: 429, 5xx, no connection, a cut body, or a body that is not Stripe's JSON."""


class ObjectsUnread(StripePipelineError):
    """Single objects or days of a type could not be read; the rest of the type was."""

    def __init__(self, problems: Mapping[str, StripePipelineError]) -> None:
        """`problems` are the errors by id or day."""
        named = [f"{name}: {error.what}" for name, error in list(problems.items())[:_NAMED]]
        counted = "1 object or day" if len(problems) == 1 else f"{len(problems)} objects or days"
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        super().__init__(
            f"{counted} could not be read ({'; '.join(named)}{more})",
            "Everything else of this type was stored. Each object is tried up to five times, after growing pauses. The"
            " table pipeline.inbox shows them; `stripe-pipeline webhooks retry` retries those that were given up",
        )


class OutOfTime(Unavailable):
    """The run's time was up before this request was answered; the request itself is not at fault.

    `last_seen` is the error of the last attempt, if any.
    """

    def __init__(self, path: str, *, last_seen: str = "") -> None:
        seen = f"; the last attempt ended with {last_seen}" if last_seen else ""
        super().__init__(
            f"The time for this run was up before GET {path} was answered{seen}",
            "The next run continues where this one stopped",
            path=path,
        )


def by_cause(failures: Mapping[str, StripePipelineError]) -> list[tuple[list[str], StripePipelineError]]:
    """The names of failures grouped by cause, each group with its first error."""
    causes: dict[object, tuple[list[str], StripePipelineError]] = {}
    for name, error in failures.items():
        # The same error at different addresses differs only in the address.
        cause = (error.status, error.code) if isinstance(error, Unavailable) else str(error)
        causes.setdefault(cause, ([], error))[0].append(name)
    return list(causes.values())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suffix that suggests the closest of the known names, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
