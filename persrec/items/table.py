"""The items table of a recipe: a row per item, with its id and what is known of it, every field as text.

| file                                     | fields                                                          |
|------------------------------------------|-----------------------------------------------------------------|
| csv, tsv, also .gz; RecBole's .item      | those of the header (RecBole's without `:type`, and no quotes)  |
| parquet; jsonl, also .gz                 | its columns; the texts of a list one after the other            |
| .json, one object over several lines     | item_id and text: its keys and their texts                      |
| MovieLens: movies.dat, u.item            | item_id, title, genres; item_id, title, release_date            |
| any other .dat, and text of a separator  | without a header by number: 1, 2, 3, ...                        |
| of more than one sign                    |                                                                 |
| the word `synthetic`                     | the titles of the synthetic log's items                         |

`item_id` may be movieId (MovieLens), parent_asin or asin (Amazon), or what `items.columns` says.
"""

import ast
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any, Final

import polars as pl

from persrec.datasets import json_lines, quoting
from persrec.datasets.files import ending, opened, uneven_row
from persrec.datasets.table import JSON_LINES, PARQUET
from persrec.datasets.titles import titles
from persrec.errors import UserError
from persrec.interactions.schema import ITEM, check_twice, close_matches, reading, shown
from persrec.interactions.values import NOTHING
from persrec.items.catalogue import fields_of

SYNTHETIC: Final = "synthetic"  # in the place of a path
RECBOLE: Final = ".item"
SEPARATORS: Final = {".csv": ",", ".tsv": "\t", RECBOLE: "\t", ".dat": "::"}
JSON_ENDINGS: Final = (*JSON_LINES, ".json")  # one object per line, too
KNOWN_FILES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {  # separator, names of the first fields; all Latin-1
    "movies.dat": ("::", (ITEM, "title", "genres")),
    "u.item": ("|", (ITEM, "title", "release_date")),
}
IDS: Final = ("movieId", "parent_asin", "asin")


def read(section: Any) -> pl.DataFrame:
    """The items table of a recipe's `items` section, `item_id` first; empty fields are null, and so are ids that are a
    word for nothing.

    Raises:
        UserError: the file is missing, empty or of an unknown kind, a row cannot be read (named), or there are no ids.
    """
    if section.path == SYNTHETIC:
        return titles()
    file = Path(section.path)
    if not file.is_file():
        there = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = f" There is {', '.join(close_matches(file.name, there))}." if close_matches(file.name, there) else ""
        raise UserError(f"items.path: {file} is no file (looked from {Path.cwd()}); expected an items table.{hint}")
    if ending(file) in PARQUET:
        with reading(str(file)):
            frame = pl.read_parquet(file)
    elif ending(file) in JSON_ENDINGS and _is_literal(file):
        frame = _literals(file)
    elif ending(file) == ".json" and _is_one_object(file, {ITEM, *IDS, *section.columns.values()}):
        frame = _texts_by_id(file, charset(section))
    elif ending(file) in JSON_ENDINGS:
        frame = _objects(file)
    else:
        frame = _text(file, section)
    if frame.is_empty():
        raise UserError(f"{file}: no rows; expected one per item")
    return _named(frame, section, str(file))


def _objects(file: Path) -> pl.DataFrame:
    """JSON lines with every key of every line; of a key that has lists in some lines only, these are text too."""
    seen = json_lines.keys(json_lines.objects(file))
    with reading(str(file), lambda: json_lines.fault(file)):
        frame = json_lines.frame(file, json_lines.kinds_of(seen)).collect()
    several = [key for key in frame.columns if len(seen[key]) > 1]
    mixed = [pl.Series(key, map(_joined, frame[key]), pl.String) for key in several]
    texts = pl.col(pl.String)
    return frame.with_columns(mixed).with_columns(pl.when(~texts.str.contains(json_lines.OBJECT)).then(texts))


def _joined(text: str | None) -> str | None:
    """The texts of a list in JSON one after the other; anything else as it is."""
    try:
        values = json.loads(text) if text and text.startswith("[") else None
    except ValueError:
        return text
    if values is None:
        return text
    return " ".join(value if isinstance(value, str) else json.dumps(value) for value in values if value is not None)


def _first_line(file: Path) -> bytes:
    with opened(file) as lines:
        return next((line for line in lines if line.strip()), b"").strip()


def _is_literal(file: Path) -> bool:
    """Whether the lines of a file are Python literals, as in Amazon's metadata of 2014, and no JSON."""
    return _first_line(file).startswith(b"{'")


def _is_one_object(file: Path, names: set[str]) -> bool:
    """Whether a file holds one object: over several lines, or on one and without a key of these `names`."""
    with opened(file) as lines:
        some = list(islice((line.strip() for line in lines if line.strip()), 2))
    first = some[0].removeprefix(b"\xef\xbb\xbf") if some else b""
    if len(some) != 1 or not first.startswith(b"{"):
        return first == b"{"
    try:
        return names.isdisjoint(json.loads(first))
    except (ValueError, RecursionError):
        return False


def _texts_by_id(file: Path, encoding: str) -> pl.DataFrame:
    """A row per key of an object, two where it stands there twice; a text may be missing."""
    wanted = "expected one object of texts by item id, or an object per line"
    try:
        pairs = json.loads(_decoded(file, encoding), object_pairs_hook=_Object)
        for key, value in pairs:
            if not isinstance(value, str | None):
                raise UserError(f"{file}: item {key!r} has {type(value).__name__.strip('_').lower()}, {wanted}")
        return pl.DataFrame([*pairs], schema={ITEM: pl.String(), "text": pl.String()}, orient="row")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({error}); {wanted}") from None


class _Object(tuple[tuple[str, Any], ...]):
    """Keys and values of an object, in order."""


def _literals(file: Path) -> pl.DataFrame:
    with opened(file) as lines:
        rows = [_literal(line, number, file) for number, line in enumerate(lines, start=1) if line.strip()]
    return pl.DataFrame(rows, schema=dict.fromkeys((key for row in rows for key in row), pl.String()))


def _literal(line: bytes, number: int, file: Path) -> dict[str, str]:
    """The text and numbers of a line, as text; those of a list, or of lists in it, one after the other."""
    try:
        found = ast.literal_eval(line.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(f"{file}: row {number} is no Python literal ({error}); correct or remove it") from None
    if not isinstance(found, dict):
        raise UserError(f"{file}: row {number} is {type(found).__name__}, expected a dict; correct or remove it")
    return {str(key): " ".join(_words(value)) for key, value in found.items() if _words(value)}


def _words(value: Any) -> list[str]:
    """The text and numbers of a value."""
    if isinstance(value, list):
        return [one for part in value for one in _words(part)]
    return [str(value)] if isinstance(value, str | int | float) else []


def _text(file: Path, section: Any) -> pl.DataFrame:
    known = KNOWN_FILES.get(file.name)
    separator = section.separator or (known[0] if known else SEPARATORS.get(ending(file)))
    if separator is None:
        kinds = ", ".join([*SEPARATORS, *PARQUET, *JSON_ENDINGS, *KNOWN_FILES])
        raise UserError(f"{file}: unknown ending {ending(file)!r} (known: {kinds}); set items.separator for text")
    text = _decoded(file, charset(section))
    if not text.strip():
        raise UserError(f"{file}: the file is empty; expected an items table with one row per item")
    if known or len(separator) > 1:
        return _fields(text, separator, known[1] if known else (), file)
    quoted = ending(file) != RECBOLE and quoting.quoted(io.BytesIO(text.encode()), separator, where=str(file))
    with reading(str(file), lambda: uneven_row(file, separator, quoted=quoted)):
        return pl.read_csv(
            io.BytesIO(text.encode()), separator=separator, infer_schema=False, quote_char='"' if quoted else None
        )


def charset(section: Any) -> str:
    """How the text of a section's table is encoded: as it says, else MovieLens' two files are in Latin-1."""
    return section.charset or ("latin-1" if Path(section.path).name in KNOWN_FILES else "utf-8")


def _decoded(file: Path, encoding: str) -> str:
    with opened(file) as lines:
        contents = lines.read()
    try:
        return contents.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        row = contents[: error.start].count(b"\n") + 1
        sign = contents[error.start : error.end]
        raise UserError(
            f"{file}: row {row} is not UTF-8 ({sign!r}); save the file as UTF-8, or set items.charset: latin-1"
        ) from None


def _fields(text: str, separator: str, names: tuple[str, ...], file: Path) -> pl.DataFrame:
    """Text without a header or quotes; fields without a name are numbered from 1 on."""
    rows = [line.rstrip("\r").split(separator) for line in text.split("\n") if line.strip("\r")]
    width = len(rows[0])
    for number, row in enumerate(rows, start=1):
        if len(row) != width or width < len(names):
            expected = max(width, len(names))
            raise UserError(f"{file}: row {number} has {len(row)} fields, expected {expected}; correct or remove it")
    every = [*names, *map(str, range(len(names) + 1, width + 1))]
    return pl.DataFrame(rows, schema=dict.fromkeys(every, pl.String()), orient="row")


def _named(frame: pl.DataFrame, section: Any, where: str) -> pl.DataFrame:
    """Fields by our names, as text; those that are none are null, unless they are used."""
    found: dict[str, str] = {}
    for name in frame.columns:
        found.setdefault(_plain(name), name)
    alias = next((name for name in IDS if name in found), None)
    if alias and ITEM not in found:
        found[ITEM] = found[alias]
    for ours, theirs in section.columns.items():
        if theirs not in frame.columns:
            near = close_matches(theirs, frame.columns)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{where}: items.columns.{ours}: no column {theirs!r}{hint}; got {shown(frame.columns)}")
    found |= section.columns
    if ITEM not in found:
        raise UserError(
            f"{where}: no column {ITEM}; got {shown(frame.columns)}; name it, as in items.columns: "
            f"{{{ITEM}: {shown(frame.columns[:1])}}}"
        )
    used = {name: found[name] for name in (ITEM, *fields_of(section.template)) if name in found}
    aliases = () if alias is None or found[ITEM] != found[alias] else IDS

    def meaning(name: str) -> str:
        bare = _plain(name)
        return ITEM if bare in aliases else bare

    check_twice(used, frame.columns, where=where, meaning=meaning, chosen=section.columns, key="items.columns")
    texts = {}
    for name in [ITEM, *(name for name in found if name != ITEM)]:
        text = _as_text(frame[found[name]])
        if text is None and name in used:
            raise UserError(
                f"{where}: column {found[name]} is {frame.schema[found[name]]}, which cannot be read as text; write it "
                f"as text, numbers or lists of them, or name another column by items.columns: {{{name}: ...}}"
            )
        texts[name] = pl.repeat(None, len(frame), dtype=pl.String, eager=True) if text is None else text
    ids = texts[ITEM].set(texts[ITEM].is_in(NOTHING), None)
    if ids.null_count() == len(ids):
        raise UserError(f"{where}: column {found[ITEM]} is empty in all {len(ids):,} rows, expected the ids of items")
    return pl.DataFrame(texts | {ITEM: ids})


def _plain(name: str) -> str:
    """A header without RecBole's `:type`."""
    return name.strip().partition(":")[0]


def _as_text(column: pl.Series) -> pl.Series | None:
    """A column as text without spaces around it, null where that is empty; None where it holds no text."""
    try:
        if isinstance(column.dtype, pl.Array):
            column = column.arr.to_list()
        inner = column.dtype.inner if isinstance(column.dtype, pl.List) else column.dtype
        if isinstance(inner, pl.Struct | pl.Object):
            return None
        if isinstance(column.dtype, pl.List):
            column = column.cast(pl.List(pl.String)).list.join(" ", ignore_nulls=True)
        text = column.cast(pl.String).str.strip_chars()
    except pl.exceptions.PolarsError:
        return None
    return text.set(text == "", None)
