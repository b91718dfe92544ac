"""The names of accounts, and the error for a data folder that holds another account."""

from __future__ import annotations

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError

UNNAMED = ""
"""The account of a key as long as its name is unknown."""


def called(account: str) -> str:
    """The account as named in a sentence."""
    return f"account {account}" if account else "an account whose name is not known"


def other_account(folder: DataFolder, held: str, account: str, *, missing: int | None = None) -> WarehouseError:
    """The error for a folder that holds account `held` and a key of `account`; each may be `UNNAMED`.

    `missing`: how many of the stored objects do not exist for the key, according to Stripe, if this distinguishes the
    accounts; 0 if the key may not read any of them.
    """
    if not (folder.lake or folder.private.exists()):
        return WarehouseError(
            f"This key is of account {account}, the other one of {held}",
            "One data folder holds one account: use keys of the same one, or run the pipeline a second time with"
            " STRIPE_PIPELINE_DATA naming another folder",
        )
    if folder.lake:
        holds, another = "The lake", "name another database in STRIPE_PIPELINE_WAREHOUSE"
        remedy = f"Use a key of that account, or {another}"
    else:
        holds, another = f"The data folder {folder.root}", "name another folder in STRIPE_PIPELINE_DATA"
        remedy = (
            f"Use a key of that account, or {another}. If you no longer need the data in this folder,"
            " `stripe-pipeline clean` removes the data"
        )
    holds = f"{holds} holds {called(held)}"
    if missing == 0:
        return WarehouseError(
            f"{holds}, and whether this key belongs to that account cannot be told: the key may not read any stored"
            " object",
            f"Set `account` in the settings file to the account that both belong to, or {another}",
        )
    message = f"{holds}, this key is of {account or 'another one'}"
    if missing:
        message += f": Stripe knows none of the {missing} newest objects with this key"
        remedy += ". If it is the same account, and its test data was deleted, set `account` in the settings file"
    return WarehouseError(message, remedy)
