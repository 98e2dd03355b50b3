"""Keys of pairs that are read from several files: no two pairs share an id, no two prompts a row.

Shards number their rows each from 0, and files that were put together do so more than once. A row's number out of a
file is kept only as long as it stands for one prompt with its pictures.
"""

from typing import Any, Final

_LARGEST: Final = 2**63 - 1
"""Of a row, which parquet holds as int64."""


class PairKeys:
    """Gives each pair the id and the row that it has in the file, or others where these are taken."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int, int], int] = {}
        """(File, row in it, hash of prompt and pictures) -> row."""
        self._taken: set[int] = set()
        self._ids: set[str] = set()
        self._last = -1
        self._before: Any = None
        self._count = 0

    def of(self, values: dict[str, Any], file: int) -> dict[str, Any]:
        """The values of a Preference read from the file of this place, with `id`, `row` and `row_id`.

        Where the data do not number rows, neighbours of equal prompt and pictures are one row, and ids are made unique
        by their place.
        """
        shown = (values["prompt"], values["images"], values.get("places", ()))
        if "row" in values:
            row = self._find_row(values["row"], file, hash(shown))
            id = values["id"] or str(self._count)
            own: dict[str, Any] = {"id": id if id not in self._ids else f"{self._count}/{id}", "row": row}
        else:
            row = self._last if shown == self._before else self._take_next()
            named = f"{self._count}/{values['id']}" if values["id"] else str(self._count)
            own = {"id": named, "row": row, "row_id": values["id"]}
        while own["id"] in self._ids:
            own["id"] += "'"
        self._ids.add(own["id"])
        self._before, self._last = shown, row
        self._count += 1
        return values | own

    def _find_row(self, number: int, file: int, content: int) -> int:
        key = (file, number, content)
        if key not in self._rows:
            free = number not in self._taken
            self._rows[key] = number if free else self._take_next()
            self._taken.add(number)
        return self._rows[key]

    def _take_next(self) -> int:
        row = self._last + 1
        while row in self._taken or row > _LARGEST:
            row = row + 1 if row <= _LARGEST else 0
        self._taken.add(row)
        return row
