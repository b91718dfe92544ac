"""The emulator with more objects than memory could hold: each is rendered from its number on request.

This module defines the objects and their times. Lists, errors and limits are those of `stripe_emulator`; the
measurements belong to the other modules.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing.connection import Connection
from random import Random
from typing import Any

import orjson

from stripe_emulator import LoggedRequest, Server, Shop, payment_templates, templates
from stripe_emulator.rate_limits import PER_ENDPOINT, RateLimiter
from stripe_emulator.shop import EMBEDDED
from stripe_emulator.store import Collection, Json, Window

KEY = "sk_live_of_the_benchmark"
LATENCY_MS = 100.0
JITTER = 0.2

LINES = 3
LONG_INVOICES = 100
"""One invoice in so many has more lines than Stripe embeds."""
LONG_LINES = 12

_START_SECONDS = 60.0
SPREAD = 0x9E3779B97F4A7C15  # odd, so that multiplying by it modulo 2**64 can be undone
_GATHER = pow(SPREAD, -1, 2**64)
_SLOT = re.compile(rb'"<(\w+):n>"|<(\w+)>')
PREFIXES = {
    "balance_transactions": "txn",
    "charges": "ch",
    "customers": "cus",
    "disputes": "dp",
    "invoices": "in",
    "payment_intents": "pi",
    "refunds": "re",
}


@dataclass(frozen=True)
class Span:
    """Objects evenly spread over `start` <= created < `end`, Unix seconds."""

    start: int
    end: int
    count: int


def object_id(type_name: str, number: int) -> str:
    """The id of a type's object by its number, 0 for the oldest; as scattered as Stripe's."""
    return f"{PREFIXES[type_name]}_3Bulk{(number + 1) * SPREAD % 2**64:016x}"


def _number(text: str) -> int:
    return int(text[-16:], 16) * _GATHER % 2**64 - 1


class _Spread:
    """When objects were made, by number, and back; memory does not grow with how many there are."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = sorted(spans, key=lambda span: span.start)
        self._before = [0, *accumulate(span.count for span in self._spans)]
        if any(earlier.end > later.start for earlier, later in zip(self._spans, self._spans[1:], strict=False)):
            raise ValueError("spans must not overlap")

    def __len__(self) -> int:
        return self._before[-1]

    def created(self, number: int) -> int:
        place = bisect_right(self._before, number) - 1
        span = self._spans[place]
        return span.start + (number - self._before[place]) * (span.end - span.start) // span.count

    def earlier_than(self, second: int) -> int:
        """How many objects were made before `second`."""
        return sum(
            span.count
            if second >= span.end
            else max(0, -(-(second - span.start) * span.count // (span.end - span.start)))
            for span in self._spans
        )


class _Template:
    """JSON of one type with slots: `<name>` within text, `"<name:n>"` for a number."""

    def __init__(self, obj: Json) -> None:
        text = orjson.dumps(obj).replace(b"%", b"%%")
        self._text = _SLOT.sub(lambda slot: b"%%(%b)b" % (slot[1] or slot[2]), text)

    def __call__(self, values: Mapping[bytes, bytes]) -> bytes:
        return self._text % values


class _Numbered(Mapping[str, Json]):
    """A collection's objects by id, those that were changed as they are now."""

    def __init__(self, collection: BulkCollection) -> None:
        self._collection = collection
        self.changed: dict[str, Json] = {}

    def __getitem__(self, key: str) -> Json:
        if key in self.changed:
            return self.changed[key]
        rendered: Json = orjson.loads(self._collection.render(self._collection.number(key)))
        return rendered

    def __iter__(self) -> Iterator[str]:
        return iter(self._collection)

    def __len__(self) -> int:
        return len(self._collection)


class BulkCollection(Collection):
    """One type's objects, rendered by number; they can be changed, not removed."""

    def __init__(self, type_name: str, spans: Sequence[Span], customers: int) -> None:
        super().__init__()
        self._type = type_name
        self._spread = _Spread(spans)
        self._customers = max(1, customers)
        self._templates = _templates(type_name)
        self.objects = _Numbered(self)  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._spread)

    def __contains__(self, key: object) -> bool:
        try:
            return isinstance(key, str) and object_id(self._type, self.number(key)) == key
        except KeyError:
            return False

    def __iter__(self) -> Iterator[str]:
        return (object_id(self._type, number) for number in reversed(range(len(self))))

    def number(self, key: str) -> int:
        """The number of the object with this id; raises KeyError if no object has it."""
        try:
            number = _number(key)
        except ValueError:
            raise KeyError(key) from None
        if not 0 <= number < len(self):
            raise KeyError(key)
        return number

    def created(self, object_id: str) -> int:
        """The second under which the object is listed."""
        return self._spread.created(self.number(object_id))

    def change(self, object_id: str, obj: Json) -> None:
        """Replace an object where it is."""
        self.objects.changed[object_id] = obj  # type: ignore[attr-defined]
        self.rendered[object_id] = orjson.dumps(obj)

    def render(self, number: int) -> bytes:
        """JSON of an object as it was made."""
        created = self._spread.created(number)
        scattered = (number + 1) * SPREAD % 2**64
        amount = 500 + scattered % 19_500
        fee = amount * 29 // 1000 + 30
        values = {b"id": object_id(self._type, number).encode(), b"word": b"%016x" % scattered}
        for name, value in (
            (b"number", number),
            (b"created", created),
            (b"later", created + 3600),
            (b"amount", amount),
            (b"fee", fee),
            (b"net", amount - fee),
            (b"last4", 1000 + scattered % 9000),
        ):
            values[name] = b"%d" % value
        for type_name in ("charges", "payment_intents", "balance_transactions"):
            values[type_name.encode()] = object_id(type_name, number).encode()
        values[b"customer"] = object_id("customers", scattered % self._customers).encode()
        long = number % LONG_INVOICES == LONG_INVOICES - 1
        return self._templates[long and len(self._templates) > 1](values)

    def page(
        self,
        window: Window,
        wanted: Callable[[str, Json], bool] | None = None,
        among: Iterable[str] | None = None,
    ) -> tuple[list[str], bool]:
        """As the emulator's, without the filters that need an index."""
        if among is not None:
            raise NotImplementedError("bulk objects are not indexed")
        low = 0 if window.since is None else self._spread.earlier_than(window.since)
        high = len(self) if window.until is None else self._spread.earlier_than(window.until)
        cursor = window.starting_after or window.ending_before
        backwards = window.starting_after is None and window.ending_before is not None
        if cursor is not None:
            place = self.number(cursor)
            if not low <= place < high:
                return [], False
            low, high = (place + 1, high) if backwards else (low, place)
        ids: list[str] = []
        for number in range(low, high) if backwards else reversed(range(low, high)):
            key = object_id(self._type, number)
            if wanted is None or wanted(key, self.objects[key]):
                ids.append(key)
                if len(ids) > window.limit:
                    break
        more = len(ids) > window.limit
        ids = ids[: window.limit]
        return (ids[::-1] if backwards else ids), more


class BulkShop(Shop):
    """A shop whose live objects are these, by type; they change only through `update`."""

    def __init__(self, spans: Mapping[str, Sequence[Span]], *, empty: bool = False) -> None:
        """`empty`: the balance is empty, instead of what all balance transactions add up to."""
        self._empty = empty
        super().__init__(seed=time.time_ns())  # so that two shops never create an event with the same id
        customers = sum(span.count for span in spans.get("customers", ()))
        self._bulk = {name: BulkCollection(name, of_type, customers) for name, of_type in spans.items()}
        self._sides[True].objects.update(self._bulk)

    def render(self, type_name: str, object_id: str, livemode: bool) -> bytes:
        """JSON of one object as the API shows it; raises KeyError if the object does not exist."""
        bulk = self._bulk.get(type_name) if livemode else None
        if bulk is None:
            return super().render(type_name, object_id, livemode)
        return bulk.rendered.get(object_id) or bulk.render(bulk.number(object_id))

    def balance_object(self, livemode: bool) -> Json:
        """The balance as the API shows it."""
        return payment_templates.balance(livemode, [], []) if self._empty else super().balance_object(livemode)

    def lines(self, invoice_id: str, livemode: bool) -> list[Json]:
        """All lines of an invoice in list order; raises KeyError if the invoice does not exist."""
        if not livemode or "invoices" not in self._bulk:
            return super().lines(invoice_id, livemode)
        bulk = self._bulk["invoices"]
        shown: Json = orjson.loads(bulk.render(bulk.number(invoice_id)))
        lines: list[Json] = shown["lines"]["data"]
        for number in range(len(lines), shown["lines"]["total_count"]):
            lines.append(lines[0] | {"id": f"{lines[0]['id'][:-2]}{number:02d}"})
        return lines


def _templates(type_name: str) -> Sequence[_Template]:
    """The templates of a type's objects; for invoices a second one, with more lines than are embedded."""
    if type_name != "invoices":
        return (_Template(_OBJECTS[type_name]()),)
    return (_Template(_invoice(LINES)), _Template(_invoice(LONG_LINES)))


_ADDRESS: Json = {
    "city": "Portland",
    "country": "US",
    "line1": "<last4> Main Street",
    "line2": None,
    "postal_code": "97201",
    "state": "OR",
}
_PERSON: Json = {"id": "<customer>", "address": _ADDRESS, "email": "<word>@example.com", "name": "Ada <word>"}
_METADATA: Json = {"order_id": "<number>", "session": "<word><word>", "goods": "Sticker set, poster, mug"} | {
    f"attribution_{n}": f"campaign {n} / spring sale / newsletter / <word>, first visit by search, {'x' * 60}"
    for n in range(12)
}
"""A page of 100 real charges was 457 KB (docs/stripe.md#stripe-python), most of it what shops keep with a payment."""


def _intent() -> Json:
    return (
        templates.payment_intent("<id>", 0, True, 0, "usd")
        | {"client_secret": "<id>_secret_<word>", "customer": "<customer>", "description": "Order <number>"}
        | {"latest_charge": "<charges>", "metadata": _METADATA, "payment_method": "pm_1<word>", "status": "succeeded"}
        | dict.fromkeys(("amount", "amount_received"), "<amount:n>")
        | {"created": "<created:n>"}
    )


def _charge() -> Json:
    details = templates.card("visa", "<last4>", "US", 0)
    card = details["card"] | {
        "amount_authorized": "<amount:n>",
        "fingerprint": "<word>",
        "overcapture": {"maximum_amount_capturable": "<amount:n>", "status": "unavailable"},
    }
    intent = _intent() | {"id": "<payment_intents>"}
    shipping = {"address": _ADDRESS, "carrier": None, "name": "Ada <word>", "phone": None, "tracking_number": None}
    return (
        templates.charge("<id>", 0, True, intent, details | {"card": card}, _PERSON)
        | {"amount_captured": "<amount:n>", "balance_transaction": "<balance_transactions>", "captured": True}
        | {"created": "<created:n>", "shipping": shipping}
        | {"receipt_url": "https://pay.stripe.com/receipts/payment/<word><word><word>?s=ap"}
    )


def _transaction() -> Json:
    fee = templates.fee(0, "usd") | {"amount": "<fee:n>"}
    return templates.balance_transaction(
        "<id>",
        0,
        0,
        "usd",
        kind="charge",
        category="charge",
        source="<charges>",
        description="Order <number>",
        available_on=0,
        fees=[],
    ) | {
        "amount": "<amount:n>",
        "available_on": "<created:n>",
        "created": "<created:n>",
        "fee": "<fee:n>",
        "fee_details": [fee],
        "net": "<net:n>",
        "status": "available",
    }


def _customer() -> Json:
    fields = {"address": _ADDRESS, "created": "<created:n>", "email": "<word>@example.com", "name": "Ada <word>"}
    return templates.customer("<id>", 0, True) | fields | {"invoice_prefix": "<last4>", "metadata": {"crm": "<word>"}}


def _of_charge() -> Json:
    return _charge() | {"id": "<charges>"}


def _refund() -> Json:
    refund = templates.refund("<id>", 0, _of_charge(), 0, "<balance_transactions>")
    return refund | {"amount": "<amount:n>", "created": "<created:n>"}


def _dispute() -> Json:
    dispute = templates.dispute("<id>", 0, _of_charge(), 0, "fraudulent", {})
    evidence = dispute["evidence_details"] | {"due_by": "<later:n>"}
    return dispute | {
        "amount": "<amount:n>",
        "balance_transactions": [_transaction() | {"id": "<balance_transactions>", "source": "<id>"}],
        "created": "<created:n>",
        "evidence_details": evidence,
    }


def _invoice(lines: int) -> Json:
    invoice = templates.invoice("<id>", 0, True, "usd", _PERSON, "sub_1<word>") | {
        "automatically_finalizes_at": None,
        "next_payment_attempt": None,
        "status": "paid",
        "status_transitions": {
            "finalized_at": "<created:n>",
            "marked_uncollectible_at": None,
            "paid_at": "<later:n>",
            "voided_at": None,
        },
    }
    times = ("created", "effective_at", "period_end", "period_start", "webhooks_delivered_at")
    amounts = ("amount_due", "amount_paid", "subtotal", "subtotal_excluding_tax", "total", "total_excluding_tax")
    invoice |= dict.fromkeys(times, "<created:n>") | dict.fromkeys(amounts, "<amount:n>")
    data = [
        templates.invoice_line(
            f"il_1<word>{n:02d}",
            invoice,
            0,
            description=f"Plan {n}",
            quantity=1,
            item=f"<word>{n}",
            price=f"1<word>{n}",
        )
        | {"amount": "<amount:n>", "subtotal": "<amount:n>"}
        for n in range(min(lines, EMBEDDED))
    ]
    listed = invoice["lines"] | {"data": data, "has_more": lines > EMBEDDED, "total_count": lines}
    return invoice | {"lines": listed}


_OBJECTS: Mapping[str, Callable[[], Json]] = {
    "balance_transactions": _transaction,
    "charges": _charge,
    "customers": _customer,
    "disputes": _dispute,
    "payment_intents": _intent,
    "refunds": _refund,
}


@dataclass(frozen=True)
class Serving:
    """The objects of a benchmark's Stripe, and how it answers."""

    spans: Mapping[str, Sequence[Span]]
    latency_ms: float = LATENCY_MS
    jitter: float = JITTER
    limits: bool = True
    """Whether Stripe's limits are enforced."""
    per_endpoint: int = PER_ENDPOINT
    """The real limit of an endpoint, requests a second."""
    others: float = 0.0
    """Requests a second that somebody else sends to each endpoint, at random moments."""
    empty: bool = False
    """Whether the balance is empty, instead of what all balance transactions add up to."""


@dataclass
class Stripe:
    """A server in a process of its own."""

    url: str
    _pipe: Connection = field(repr=False)

    def requests(self) -> list[tuple[float, str, int]]:
        """Time (Unix seconds), path and status of every request since the last call, oldest first."""
        log: list[tuple[float, str, int]] = self._ask("requests")
        return log

    def change(self, type_name: str, ids: Sequence[str], **fields: Any) -> None:
        """Change objects, each with its event."""
        self._ask("change", type_name, list(ids), fields)

    def cpu_seconds(self) -> float:
        """CPU that the server has used."""
        seconds: float = self._ask("cpu_seconds")
        return seconds

    def _ask(self, command: str, *arguments: object) -> Any:
        self._pipe.send((command, *arguments))
        return self._pipe.recv()


@contextmanager
def serving(serving: Serving) -> Iterator[Stripe]:
    """A Stripe with these objects, while the block runs."""
    with server_process(_serve, serving) as (url, pipe):
        yield Stripe(url, pipe)


@contextmanager
def server_process(serve: Callable[..., None], *arguments: Any) -> Iterator[tuple[str, Connection]]:
    """The address of a server in a process of its own, while the block runs, and a pipe to that process.

    `serve` is called there with the pipe's other end and these arguments. It sends the address, and returns when the
    pipe is closed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise TimeoutError(f"the server did not start within {_START_SECONDS:.0f} seconds")
        yield ours.recv(), ours
    finally:
        ours.close()  # at which the process ends
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join()


def _serve(pipe: Connection, serving: Serving) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    shop = BulkShop(serving.spans, empty=serving.empty)
    limiter = RateLimiter(per_endpoint=serving.per_endpoint) if serving.limits else False
    times: dict[str, Any] = {"latency_ms": serving.latency_ms, "latency_jitter": serving.jitter}
    ended = threading.Event()
    with Server(shop, rate_limits=limiter, **times) as server:
        if limiter and serving.others:
            threading.Thread(target=_use_up, args=(limiter, serving, ended), daemon=True).start()
        pipe.send(server.url)
        while True:
            try:
                command, *arguments = pipe.recv()
            except EOFError:
                break
            if command == "requests":
                log: list[LoggedRequest] = server.requests[:]
                del server.requests[: len(log)]
                pipe.send([(entry.time, entry.path, entry.status) for entry in log])
            elif command == "cpu_seconds":
                pipe.send(time.process_time())
            else:
                type_name, ids, fields = arguments
                for changed in ids:
                    shop.update(type_name, changed, livemode=True, **fields)
                pipe.send(None)
        ended.set()


def _use_up(limiter: RateLimiter, serving: Serving, ended: threading.Event) -> None:
    """The account's other traffic: it takes its share of each endpoint's limit."""
    random = Random(1)
    while not ended.wait(random.expovariate(serving.others)):
        for type_name in serving.spans:
            limiter.refuse(True, f"v1/{type_name}")
