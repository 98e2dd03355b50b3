"""`harness store`: look at, upgrade and rescue the files in which replies, answers and fingerprints are kept."""

from pathlib import Path
from typing import Annotated

import typer

from support.errors import FAILED, OK, UsageError
from support.sqlite import Schema, Store, count_rows, find_damage, identify, rescue

store_app = typer.Typer(no_args_is_help=True, help="Check, upgrade or rescue ledgers, stores of answers, fingerprints.")

Files = Annotated[list[Path], typer.Argument(help="Ledgers, stores of answers, files of fingerprints.")]


@store_app.command("check")
def check_stores(files: Files) -> int:
    """Tell what files hold and whether they are whole; exit 1 if one is not."""
    code = OK
    for file in files:
        schema = _identify(file)
        damage = find_damage(file)
        if damage:
            code = FAILED
            print(f"{file}: {schema.what}, damaged: {damage[0]} ({len(damage)} in all)")
        else:
            print(f"{file}: {schema.what}, whole: {_describe(count_rows(file, schema))}")
    return code


@store_app.command("upgrade")
def upgrade_stores(files: Files) -> None:
    """Give files of earlier versions what this one adds; nothing in them is lost, and earlier versions read them on."""
    for file in files:
        schema = _identify(file)
        with Store(file, schema) as store:
            done = ", ".join(store.added) or "nothing to do"
        print(f"{file}: {schema.what}: {done}")


@store_app.command("rescue")
def rescue_store(
    file: Annotated[Path, typer.Argument(help="The damaged file, which stays as it is.")],
    new: Annotated[Path, typer.Argument(help="The file to write; must not be there.")],
) -> None:
    """Copy what can be read of a damaged file into a new one."""
    schema = _identify(file)
    print(f"{new}: {schema.what}: {_describe(rescue(file, new, schema))}")


def _identify(file: Path) -> Schema:
    """Whose file it is; UsageError where there is none, StoreError for another program's."""
    if not file.exists():
        raise UsageError(
            f"{file}: no such file; ledgers and stores of answers are in runs/ unless a command names others"
        )
    return identify(file, _list_schemas())


def _describe(rows: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in rows.items()) or "empty"


def _list_schemas() -> list[Schema]:
    from harness.engine import response_cache
    from support import picture_keys
    from tasks.judges import ledger
    from trainers.data import image_hashes

    return [ledger.SCHEMA, response_cache.SCHEMA, image_hashes.SCHEMA, picture_keys.SCHEMA]
