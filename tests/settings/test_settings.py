"""The settings file and the environment: defaults, valid values, and the message for each invalid one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, get_args, get_origin

import pytest
from pydantic import BaseModel

from stripe_pipeline.errors import SettingsError
from stripe_pipeline.objects import ALL_TYPES, DEFAULT_TYPES, OBJECT_TYPES
from stripe_pipeline.settings.ages import Age
from stripe_pipeline.settings.environment import api_base, load_keys, webhook_secrets
from stripe_pipeline.settings.loading import load_settings
from stripe_pipeline.settings.model import Settings

Load = Callable[[str], Settings]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads settings from a text."""

    def load(text: str) -> Settings:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return load_settings({"STRIPE_PIPELINE_CONFIG": str(path)})

    return load


def names(settings: Settings) -> set[str]:
    """The names of the enabled object types."""
    return {object_type.name for object_type in settings.enabled}


def months_ago(months: int) -> date:
    """The first day of the month that many months ago."""
    day = datetime.now(UTC).date().replace(day=1)
    for _ in range(months):
        day = (day - timedelta(days=1)).replace(day=1)
    return day


@pytest.mark.parametrize("text", ["", "# nothing", "history:\nrate:\nobjects:\n  charges:\n", "rate: {}\nobjects: {}"])
def test_unset_keys_have_their_defaults(load: Load, text: str) -> None:
    settings = load(text)
    assert settings.first_day == months_ago(24)
    assert settings.rate.share == 0.8
    assert names(settings) == set(DEFAULT_TYPES)


def test_the_file_that_comes_with_the_project_holds_the_defaults() -> None:
    shipped = Path(__file__).parents[2] / "stripe_pipeline.yaml"
    assert load_settings({"STRIPE_PIPELINE_CONFIG": str(shipped)}) == Settings()


def test_the_commented_lines_of_that_file_are_valid(load: Load) -> None:
    shipped = (Path(__file__).parents[2] / "stripe_pipeline.yaml").read_text(encoding="utf-8")
    settings = load(re.sub(r"(?m)^#  ", "  ", shipped.replace("objects: {}", "objects:")))
    assert settings.objects["charges"].custom_fields["quantity"].type == "integer"
    assert settings.rules(OBJECT_TYPES["customers"]).left_out == {"phone"}
    assert "disputes" not in names(settings)
    assert "payouts" in names(settings)


def test_every_example_on_the_pages_is_valid(load: Load) -> None:
    """The examples of the settings page, and settings that other pages show in running text."""
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "settings.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(examples) > 20
    for example in examples:
        assert load(example) != Settings(), example
    keys = "|".join(Settings.model_fields)
    text = "".join(file.read_text(encoding="utf-8") for file in docs.glob("*.md"))
    inline = {shown for shown in re.findall(rf"`((?:{keys}): [^`]+)`", text) if "…" not in shown}
    assert len(inline) >= 4
    for shown in inline:
        load(shown)


def test_without_a_file_the_defaults_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings({}) == Settings()
    with pytest.raises(SettingsError, match=r"gone\.yaml does not exist"):
        load_settings({"STRIPE_PIPELINE_CONFIG": "gone.yaml"})


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("2010-01-01", date(2010, 1, 1)),
        ("2024-02-29", date(2024, 2, 29)),
        ("'2024-02-29'", date(2024, 2, 29)),
        ("0 days", datetime.now(UTC).date()),
        ("3 weeks", datetime.now(UTC).date() - timedelta(weeks=3)),
        ("1 month", months_ago(1)),
        ("2 years", months_ago(24)),
    ],
)
def test_history_is_a_date_or_an_age(load: Load, text: str, first: date) -> None:
    assert load(f"history: {text}").first_day == first


@pytest.mark.parametrize(
    "text",
    [
        "12",
        "long",
        "2999-01-01",
        "2009-12-31",
        "25 years",
        "'2024-02-30'",
        "99999999999 days",
        "9999 years",
        "2024-01-01 00:00:00",
    ],
)
def test_a_history_of_another_form_is_refused(load: Load, text: str) -> None:
    with pytest.raises(SettingsError, match="`history` should be a date from 2010 on"):
        load(f"history: {text}")


@pytest.mark.parametrize(("text", "share"), [("50%", 0.5), ("0.5", 0.5), ("' 12.5 % '", 0.125), ("100%", 1.0)])
def test_share_is_a_fraction_or_a_percentage(load: Load, text: str, share: float) -> None:
    assert load(f"rate: {{share: {text}}}").rate.share == share


def test_optional_types_are_on_where_the_settings_switch_these_on(load: Load) -> None:
    assert names(load("")) == names(load("objects: {all: false}")) == set(DEFAULT_TYPES)
    with_children = {*DEFAULT_TYPES, "payouts", "payout_balance_transactions"}
    assert names(load("objects: {payouts: {enabled: true}}")) == with_children
    alone = load("objects: {payouts: {enabled: true}, payout_balance_transactions: {enabled: false}}")
    assert names(alone) == {*DEFAULT_TYPES, "payouts"}
    of_customers = {"customer_balance_transactions": {"enabled": True}}
    assert names(load(f"objects: {of_customers}")) == {*DEFAULT_TYPES, *of_customers}
    assert names(load("objects: all")) == set(ALL_TYPES)
    excepted = load("objects: {all: true, issuing_cards: {enabled: false}, payouts: {title: Bank transfers}}")
    assert names(excepted) == ALL_TYPES.keys() - {"issuing_cards"}
    assert excepted.title(OBJECT_TYPES["payouts"]) == "Bank transfers"
    by_name = OBJECT_TYPES.keys() - ALL_TYPES.keys()
    assert "setup_attempts" in by_name
    assert all(OBJECT_TYPES[name].child_list for name in by_name)
    of_setups = {"setup_intents": {"enabled": True}, "setup_attempts": {"enabled": True}}
    assert names(load(f"objects: {of_setups}")) == {*DEFAULT_TYPES, *of_setups}


def test_disabling_a_parent_disables_its_children(load: Load) -> None:
    settings = load("objects: {invoices: {enabled: false}, charges: {title: Card charges}}")
    assert names(settings) == set(DEFAULT_TYPES) - {"invoices", "invoice_lines"}
    assert settings.title(OBJECT_TYPES["charges"]) == "Card charges"
    assert settings.title(OBJECT_TYPES["fee_details"]) == "fee details"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("history: [", "is not YAML: line 1, column 11"),
        ("a: !python/object:os.system x", "is not YAML: line 1, column 4"),
        ("rate:\nhistory: 2024-02-30", "is not YAML: line 2, column 10: day is out of range"),
        ("rate:\n  {{ share }}: 50%", "is not YAML: line 2, column 3: a list or mapping is not a key"),
        ("objects: {charges: {custom_fields: {on: outcome.x}}}", "column 37: `on` without quotes is not a key"),
        ("- history", "everything should be lines of `key: value`"),
        ("charges", "everything should be lines of `key: value`"),
        ("rate: 80%", "`rate` should be lines of `key: value`"),
        (
            "objects: [charges]",
            r"`objects` is \['charges'\]: write `all` to load every type, or lines of `table: settings`",
        ),
        ("objects: {all: yes please}", "`objects` has 'yes please' as `all`: should be true or false"),
        ("objects: {payouts: {title: Bank transfers}}", "`objects.payouts` is off by default: add `enabled: true`"),
        ("objects: {all: true, setup_attempts: {title: Attempts}}", "`objects.setup_attempts` is off by default"),
        ("rate: {share: 0}", "`rate.share` should be greater than 0"),
        ("rate: {share: 120%}", "`rate.share` should be less than or equal to 1"),
        ("inbox: {keep_days: 0}", "`inbox.keep_days` should be greater than or equal to 1"),
        ("runs: {keep_days: 0}", "`runs.keep_days` should be greater than or equal to 1"),
        ("runs: {keep_days: 9999999999}", "`runs.keep_days` should be less than or equal to 36500"),
        ("inbox: {keep_days: 9999999999}", "`inbox.keep_days` should be less than or equal to 36500"),
        ("sweep: {requests_a_month: -1}", "`sweep.requests_a_month` should be greater than or equal to 0"),
        ("mrr: {trials: often}", "`mrr.trials` should be a valid boolean"),
        ("mrr: {pastdue: true}", r"not a known key \(did you mean past_due\?\)"),
        ("rate: {share: most}", "`rate.share` should be a valid number"),
        ("objects: {charges: {enabled: perhaps}}", "`objects.charges.enabled` should be a valid boolean"),
        (
            "objects: {charges: {colour: red}}\nsize: 3",
            "line 1: `objects.charges.colour` is not a known key; line 2: `size` is not a known",
        ),
        ("size: 3", "or upgrade stripe_pipeline"),
        ("retenton: forever", r"`retenton` is not a known key \(did you mean retention\?\)"),
        ("owners: [finance]", r"`owners.0` is 'finance': should be a team such as team:finance, or an email"),
        ('owners: ["team:"]', r"`owners.0` is 'team:': should be a team"),
        ("owners: [a@example]", r"`owners.0` is '<e-mail address>': should be a team"),
        ("bi: often", "`bi` should be a valid boolean"),
        ("runs: {keepdays: 3}", r"not a known key \(did you mean keep_days\?\)"),
        ("objects: {charges: {fields: {exlude: [outcome]}}}", r"not a known key \(did you mean exclude\?\)"),
        ("objects: {charges: {custom_fields: {risk: {pth: outcome.x}}}}", r"not a known key \(did you mean path\?\)"),
        (
            "objects: {charges: {custom_fields: {risk: {type: json}}}}",
            "`objects.charges.custom_fields.risk.path` is mi",
        ),
        ("retention: soon", "`retention` should be an age such as 36 months, or forever"),
        ("retention: 0 days", "`retention` should be an age"),
        ("retention: 99999 years", "`retention` should be an age"),
        ("on_delete: keep", "`on_delete` should be 'hide' or 'remove'"),
        (
            "objects:\n  charges:\n    date_feild: created",
            r"line 3: `objects.charges.date_feild` is not a known key \(did you mean date_field\?\)",
        ),
        (
            "objects: {charges: {date_field: status}}",
            "`objects.charges.date_field` is 'status': the timestamps of",
        ),
        ("objects: {fee_details: {history: 3 days}}", "history` cannot be set: fee_details come and go with their"),
        (
            "objects: {charges: {fields: {exclude: [id]}}}",
            "names 'id' under `exclude`: rows need created, id",
        ),
        ("objects: {invoice_lines: {fields: {hash: [invoice]}}}", "names 'invoice' under `hash`: rows need"),
        ("objects: {fee_details: {fields: {exclude: [position]}}}", "names 'position' under `exclude`: rows need"),
        ("objects: {customers: {fields: {exclude: [emial]}}}", "not a field of customers .did you mean email"),
        ("objects: {customers: {fields: {exclude: email}}}", "should be a list such as"),
        ("objects: {customers: {fields: {exclude: [email.domain]}}}", "email has no fields below it"),
        (
            "objects: {customers: {fields: {exclude: [metadata.item.sku]}}}",
            "metadata holds text: a key with dots goes in",
        ),
        ("objects: {fee_details: {on_delete: remove}}", "come and go with their balance_transactions; set it there"),
        ("objects: {customers: {fields: {exclude: [email], hash: [email]}}}", "under both `hash` and `exclude`"),
        ("objects: {charges: {fields: {exclude: [outcome..type]}}}", "separate names by dots"),
        ("objects: {charges: {fields: {exclude: [_extra.new]}}}", "'_extra.new' under `exclude`, which is not a field"),
        (
            "objects: {customers: {fields: {exclude: [address], hash: [address.line1]}}}",
            "under both `hash` and `exclude`",
        ),
        ("objects: {charges: {fields: {hash: [_extra]}}}", "only text can be hashed"),
        ("objects: {charges: {fields: {hash: [amount]}}}", "only text can be hashed"),
        ("objects: {charges: {fields: {hash: [outcome]}}}", "only text can be hashed"),
        ("objects: {charges: {fields: {hash: [currency]}}}", "exclude it instead"),
        ("objects: {balance_transactions: {fields: {hash: [status]}}}", "exclude it instead"),
        (
            "objects: {charges: {fields: {include: [amount], hash: [outcome.risk_level]}}}",
            "names 'outcome.risk_level' under `hash` and not 'outcome' under `include`: include the field, and exclude",
        ),
        (
            "objects: {charges: {fields: {include: [outcome.risk_level]}}}",
            "include the field, and exclude",
        ),
        ("objects: {invoices: {date_field: due_date, fields: {exclude: [due_date]}}}", "which `fields` leaves out"),
        ("objects: {charges: {custom_fields: {amount: outcome.x}}}", "has the name of an existing column"),
        ("objects: {charges: {custom_fields: {amount_decimal: outcome.x}}}", "has the name of an existing column"),
        ("objects: {charges: {custom_fields: {default_date: outcome.x}}}", "has the name of an existing column"),
        ("objects: {charges: {custom_fields: {default_day: outcome.x}}}", "has the name of an existing column"),
        ("objects: {charges: {custom_fields: {'a b': outcome.x}}}", "should be named with lower-case letters"),
        ("objects: {charges: {custom_fields: {risk: outcome..x}}}", "separate names by dots"),
        ("objects: {charges: {custom_fields: {risk: outcom.x}}}", "not a field of charges .did you mean outcome"),
        (
            "objects: {charges: {custom_fields: {risk: {path: outcome, type: colour}}}}",
            "type` should be 'text'",
        ),
        (
            "objects: {charges: {custom_fields: {email: customer.email}}}",
            "takes 'customer.email', but customer has no fields below it",
        ),
        (
            "objects: {charges: {fields: {exclude: [outcome.type]}, custom_fields: {a: outcome.type}}}",
            "takes 'outcome.type', which `fields` leaves out",
        ),
        (
            "objects: {charges: {fields: {exclude: [outcome]}, custom_fields: {a: outcome.type}}}",
            "takes 'outcome.type', which `fields` leaves out",
        ),
        ("objects: {charges: {custom_fields: {a: status.x}}}", "takes 'status.x', but status has no fields below it"),
        ("rate: {share: 50%}\nrate: {share: 60%}", "line 2, column 1: `rate` occurs twice"),
        ("objects: {charges: {title: a, title: b}}", "line 1, column 31: `title` occurs twice"),
        (
            "objects:\n  charges:\n    fields: {hash: [id]}\n  disputes:\n    date_field: status",
            "line 3: `objects.charges.fields` names 'id' .*; line 5: `objects.disputes.date_field` is 'status'",
        ),
        ("objects: &a {charges: *a}", "line 1, column 10: an alias refers to the mapping that contains it"),
        ("a: !!timestamp foo", "line 1, column 4: 'foo' is not a timestamp"),
        ("a: !!bool perhaps", "line 1, column 4: 'perhaps' is not a bool"),
        (
            "\n".join(["objects:", *(f"  {name}: {{enabled: false}}" for name in DEFAULT_TYPES)]),
            "line 1: `objects` switches every type off",
        ),
        ('objects: {charges: {title: "a\\0b"}}', "`objects.charges.title` contains a NUL character"),
        ("objects: {charges: {custom_fields: {'a b': outcome.x}}}", "`objects.charges.custom_fields.a b` should be"),
        (
            "objects: {charges: {custom_fields: {a: metadata.item.sku}}}",
            "takes 'metadata.item.sku', but metadata holds",
        ),
        (
            "objects: {charges: {custom_fields: {a: metadata.2024}}}",
            "put a name that contains dots, or is a number, in double",
        ),
        (
            "objects: {charges: {fields: {exclude: [_extra]}, custom_fields: {a: _extra.new}}}",
            "takes '_extra.new', which `fields` leaves out",
        ),
        (
            "objects: {invoices: {fields: {exclude: [lines.data.amount]}, custom_fields: {a: lines.data.0.amount}}}",
            "takes 'lines.data.0.amount', which `fields` leaves out",
        ),
        ("objects: {chrages: {}}", "line 1: `objects.chrages` is not an object type .did you mean charges"),
        ("objects: {payout: {}}", "`objects.payout` is not an object type .did you mean payouts"),
        ("objects: al", r"line 1: `objects` is 'al' \(did you mean all\?\): write `all` to load every type, or lines"),
        ("objects: payouts", "`objects` is 'payouts': write `all` to load every type"),
    ],
)
def test_an_invalid_setting_is_named(load: Load, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        load(text)
    assert "settings.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def sections(model: type[BaseModel], where: tuple[str, ...] = ()) -> dict[tuple[str, ...], type[BaseModel]]:
    """The sections of the settings file by their path, in which `x` stands for any name."""
    by_path = {where: model}
    for name, info in model.model_fields.items():
        inner = info.annotation
        path = (*where, name)
        if get_origin(inner) is dict:
            inner, path = get_args(inner)[1], (*path, "x")
            inner = get_args(inner)[0] if get_origin(inner) is Annotated else inner
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            by_path |= sections(inner, path)
    return by_path


def test_the_typos_are_tried_in_every_section() -> None:
    [base] = Settings.__bases__
    assert set(sections(Settings).values()) == set(base.__subclasses__())


@pytest.mark.parametrize(
    ("where", "key"),
    [(where, key) for where, model in sections(Settings).items() for key in model.model_fields],
    ids=lambda part: part if isinstance(part, str) else ".".join(part) or "top",
)
def test_a_typo_in_any_key_is_answered_with_that_key(load: Load, where: tuple[str, ...], key: str) -> None:
    typo = f"{key}_"
    text = f"{{{typo}: 3}}"
    for name in reversed(where):
        text = f"{{{'charges' if name == 'x' else name}: {text}}}"
    with pytest.raises(SettingsError, match=rf"{typo}` is no.* known key \(did you mean {key}\?\)"):
        load(text)


def test_a_settings_file_that_is_binary_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(SettingsError, match=r"binary.yaml is not UTF-8 \(line 1\)"):
        load_settings({"STRIPE_PIPELINE_CONFIG": str(tmp_path / "binary.yaml")})
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\)"):
        load_settings({"STRIPE_PIPELINE_CONFIG": str(tmp_path)})


def test_there_may_be_one_key_of_each_mode() -> None:
    live, test = "sk_live_0123456789", "rk_test_0123456789"
    assert [key.livemode for key in load_keys({"STRIPE_API_KEY": f" {live}\n"})] == [True]
    assert [key.livemode for key in load_keys({"STRIPE_API_KEY": test, "STRIPE_TEST_API_KEY": ""})] == [False]
    assert [key.livemode for key in load_keys({"STRIPE_TEST_API_KEY": test})] == [False]
    both = load_keys({"STRIPE_API_KEY": live, "STRIPE_TEST_API_KEY": test})
    assert [key.secret for key in both] == [live, test]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "No Stripe API key is set"),
        ({"STRIPE_API_KEY": "  "}, "No Stripe API key is set"),
        ({"STRIPE_API_KEY": "pk_live_0123456789"}, "STRIPE_API_KEY does not hold"),
        ({"STRIPE_TEST_API_KEY": "rk_test_01234 56789"}, "STRIPE_TEST_API_KEY does not hold"),
        ({"STRIPE_API_KEY": "sk_test_0123456789", "STRIPE_TEST_API_KEY": "sk_test_9876543210"}, "of the same mode"),
        ({"STRIPE_TEST_API_KEY": "sk_live_0123456789"}, "STRIPE_TEST_API_KEY holds a live key"),
        ({"STRIPE_API_KEY": "sk_test_0123456789", "STRIPE_TEST_API_KEY": "sk_live_0123456789"}, "holds a live key"),
    ],
)
def test_keys_that_cannot_be_used_are_named_but_not_shown(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        load_keys(environment)
    assert "01234" not in str(refused.value)


def test_api_base_is_stripe_unless_set() -> None:
    assert api_base({}) == api_base({"STRIPE_API_BASE": " "}) == "https://api.stripe.com"
    assert api_base({"STRIPE_API_BASE": "http://127.0.0.1:12111/"}) == "http://127.0.0.1:12111"
    for nonsense in (
        "api.stripe.com",
        "ftp://api.stripe.com",
        "https://",
        "https:///v1",
        "http://h:99999999",
        "http://a b",
    ):
        with pytest.raises(SettingsError, match="is not the address of a server"):
            api_base({"STRIPE_API_BASE": nonsense})


def test_a_key_is_sent_unencrypted_to_this_machine_only() -> None:
    for local in ("http://127.0.0.1:12111", "http://127.8.9.10", "http://[::1]:12111", "http://LocalHost:3000"):
        assert api_base({"STRIPE_API_BASE": local}) == local
    for away in (
        "http://api.stripe.com",
        "http://stripe-mock:12111",
        "http://192.168.1.2:12111",
        "http://0.0.0.0:12111",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
        "HTTP://example.com",
    ):
        for answer in ("", "no", "1"):
            with pytest.raises(SettingsError, match="unencrypted") as refused:
                api_base({"STRIPE_API_BASE": away, "STRIPE_PIPELINE_ALLOW_HTTP": answer})
        assert "STRIPE_PIPELINE_ALLOW_HTTP=yes" in refused.value.remedy
        assert api_base({"STRIPE_API_BASE": away, "STRIPE_PIPELINE_ALLOW_HTTP": "yes"}) == away
        assert api_base({"STRIPE_API_BASE": away.lower().replace("http:", "https:")}).startswith("https://")


@pytest.mark.parametrize("base", ["https://me:secretword@example.com", "http://me:secretword@127.0.0.1"])
def test_the_address_of_the_api_holds_no_password(base: str) -> None:
    with pytest.raises(SettingsError, match="user name or password") as refused:
        api_base({"STRIPE_API_BASE": base, "STRIPE_PIPELINE_ALLOW_HTTP": "yes"})
    assert "secretword" not in str(refused.value)


def test_the_event_types_are_those_that_announce_changes_of_enabled_types(load: Load) -> None:
    everything = load("")
    for object_type in everything.enabled:
        assert set(object_type.events) <= set(everything.event_types), object_type.name
    assert len(everything.event_types) == len(set(everything.event_types))
    assert {"charge.succeeded", "customer.deleted", "invoice.paid", "refund.failed"} < set(everything.event_types)
    assert "invoice.upcoming" not in everything.event_types
    # Events of charges and refunds also announce balance transactions, those of customers nothing else.
    off = load("objects: {charges: {enabled: false}, refunds: {enabled: false}, customers: {enabled: false}}")
    assert {t.name for t in everything.announcing} - {t.name for t in off.announcing} == {"customers"}
    assert "customer.deleted" not in off.event_types
    without = load("objects: {charges: {enabled: false}, balance_transactions: {enabled: false}}")
    assert "charge" not in [t.object for t in without.announcing]
    assert "charge.dispute.created" in without.event_types
    assert "charge.captured" not in without.event_types
    with_payouts = load("objects: {payouts: {enabled: true}}")
    added = set(with_payouts.event_types) - set(everything.event_types)
    assert added == set(OBJECT_TYPES["payouts"].events)


def test_there_may_be_several_webhook_secrets_of_both_modes() -> None:
    environment = {"STRIPE_WEBHOOK_SECRET": " whsec_1, whsec_2,", "STRIPE_TEST_WEBHOOK_SECRET": "whsec_3,whsec_1"}
    assert webhook_secrets(environment) == ("whsec_1", "whsec_2", "whsec_3")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "No webhook signing secret is set"),
        ({"STRIPE_WEBHOOK_SECRET": " , "}, "No webhook signing secret is set"),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_1,we_01234"}, "STRIPE_WEBHOOK_SECRET does not hold"),
        ({"STRIPE_TEST_WEBHOOK_SECRET": "whsec_ 01234"}, "STRIPE_TEST_WEBHOOK_SECRET does not hold"),
    ],
)
def test_webhook_secrets_that_cannot_be_used_are_named_but_not_shown(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        webhook_secrets(environment)
    assert "01234" not in str(refused.value)


def test_settings_of_one_type_override_those_of_all_types(load: Load) -> None:
    settings = load(
        "history: 2024-01-01\nretention: 12 months\non_delete: remove\nobjects:\n"
        "  charges: {retention: forever, history: 2023-05-01, on_delete: hide}\n"
        "  fee_details: {retention: 2 weeks}\n"
        "  disputes: {enabled: false, history: 2011-01-01}\n"
        "  invoices: {history: 2023-06-01, on_delete: hide}\n"
    )
    types = settings.types
    assert settings.retention_of(types["charges"]) is None
    assert str(settings.retention_of(types["refunds"])) == "12 months"
    assert settings.retention_of(types["invoice_lines"]) is None  # its parent's
    assert settings.cutoff(types["fee_details"]) == datetime.now(UTC).date() - timedelta(weeks=2)
    assert settings.history_of(types["charges"]) == settings.first_day == date(2023, 5, 1)
    assert settings.history_of(types["invoice_lines"]) == date(2023, 6, 1)  # its parent's
    assert settings.history_of(types["fee_details"]) == date(2024, 1, 1)
    assert settings.first_listed(types["refunds"]) == settings.cutoff(types["refunds"])
    assert settings.first_listed(types["fee_details"]) == settings.cutoff(types["balance_transactions"])  # its parent's
    assert settings.first_listed(types["charges"]) == date(2023, 5, 1)
    assert settings.on_delete_of(types["charges"]) == "hide"
    assert settings.on_delete_of(types["invoice_lines"]) == "hide"  # its parent's
    assert settings.on_delete_of(types["fee_details"]) == "remove"


@pytest.mark.parametrize(
    ("age", "day", "before"),
    [
        (Age(1, "month"), date(2026, 3, 31), date(2026, 2, 28)),
        (Age(1, "year"), date(2024, 2, 29), date(2023, 2, 28)),
        (Age(36, "month"), date(2026, 11, 23), date(2023, 11, 23)),
        (Age(1, "month"), date(2026, 5, 31), date(2026, 4, 30)),
        (Age(1, "month"), date(2026, 1, 31), date(2025, 12, 31)),
        (Age(2, "week"), date(2026, 1, 3), date(2025, 12, 20)),
    ],
)
def test_an_age_counts_back_by_the_calendar(age: Age, day: date, before: date) -> None:
    assert age.before(day) == before


def test_days_before_the_history_are_not_listed_even_with_a_longer_retention(load: Load) -> None:
    first = datetime.now(UTC).date() - timedelta(days=10)
    settings = load(f"history: {first}\nretention: 12 months\nobjects: {{invoices: {{date_field: due_date}}}}")
    assert settings.first_listed(settings.types["charges"]) == first
    assert settings.first_listed(settings.types["invoice_lines"]) == first


def test_types_may_share_settings_by_an_anchor(load: Load) -> None:
    settings = load("objects:\n  charges: &kept {retention: 2 weeks}\n  refunds: {<<: *kept, title: Money back}")
    assert str(settings.retention_of(settings.types["refunds"])) == "2 weeks"


def test_only_plain_digits_in_a_path_are_an_index(load: Load) -> None:
    settings = load("objects: {charges: {custom_fields: {a: outcome.1, b: outcome.²}}}")
    assert [field.steps[1] for field in settings.objects["charges"].custom_fields.values()] == [1, "²"]


def test_a_custom_field_may_have_the_name_of_a_field_that_is_left_out(load: Load) -> None:
    settings = load("objects: {customers: {fields: {exclude: [email]}, custom_fields: {email: metadata.email}}}")
    assert settings.custom_fields(OBJECT_TYPES["customers"])["email"].path == "metadata.email"


def test_hashed_fields_are_included_as_well(load: Load) -> None:
    fields = "{include: [name, metadata], hash: [email, metadata.tax_number]}"
    settings = load(f"objects: {{customers: {{fields: {fields}}}}}")
    assert {"id", "name", "email", "metadata"} <= set(settings.types["customers"].column_names)
    assert not {"phone", "address"} & set(settings.types["customers"].column_names)
