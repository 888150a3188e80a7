"""The texts of a log's items: the items table put beside the vocabulary, by a template.

Shapes: V items.
"""

import string
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from persrec.errors import UserError
from persrec.interactions.schema import ITEM, close_matches, shown

TEXT: Final = "text"


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items of a log."""

    texts: list[str]  # (V,) entry i is that of item i+1; "" where there is none
    counts: dict[str, int]

    def __str__(self) -> str:
        """One sentence for a person."""
        told = [f"{count:,} {what}" for what, count in self.counts.items() if count and what != "items"]
        return f"{self.counts['items']:,} items; {', '.join(told) or 'all of them have a text'}."


def catalogue(table: pl.DataFrame, item_ids: pl.Series, template: str, *, where: str) -> Catalogue:
    """The text of each item of a log whose ids are `item_ids` (V,).

    Of several rows with the same id the text that most of them have counts, of these the first. Counted: items without
    a row or without a text, ids that stand in several rows, those of them with different texts, rows without events
    and rows without an id, which are left out.

    Raises:
        UserError: the template names fields that are not there, or no item of the log is in the table.
    """
    rows = table.select(ITEM, _rendered(table, template, where).alias(TEXT)).with_row_index("row")
    texts = rows.drop_nulls(ITEM)
    counted = texts.group_by(ITEM, TEXT).agg(pl.len().alias("rows"), pl.col("row").min())
    filled = counted.sort(pl.col(TEXT).is_null(), -pl.col("rows").cast(pl.Int64), "row")
    best = filled.group_by(ITEM, maintain_order=True).agg(
        pl.col(TEXT).first(), pl.col("rows").sum(), pl.col(TEXT).count().alias("versions")
    )
    log = item_ids.alias(ITEM).to_frame().with_columns(pl.col(ITEM).cast(pl.String))
    joined = log.join(best, on=ITEM, how="left", maintain_order="left")
    if joined["rows"].null_count() == len(joined):
        raise UserError(
            f"{where}: has no item of the log: its {ITEM} are such as {texts[ITEM][0]!r}, those of the log such as "
            f"{log[ITEM][0]!r}; give the table of this log, or name the column of its ids, as in items.columns: "
            f"{{{ITEM}: ...}}"
        )
    absent = joined["rows"].null_count()
    counts = {
        "items": len(log),
        "without a row in the items table": absent,
        "without a text": joined[TEXT].null_count() - absent,
        "ids in several rows": int((best["rows"] > 1).sum()),
        "of them with different texts": int((best["versions"] > 1).sum()),
        "items of the table without events": int((~best[ITEM].is_in(log[ITEM].implode())).sum()),
        "rows of the table without an id": len(rows) - len(texts),
    }
    return Catalogue(joined[TEXT].fill_null("").to_list(), counts)


def _rendered(table: pl.DataFrame, template: str, where: str) -> pl.Series:
    """The template of every row; null where none of its fields has a value."""
    fields = fields_of(template)
    unknown = [field for field in fields if field not in table.columns]
    if unknown:
        near = close_matches(unknown[0], table.columns)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(
            f"items.template: got {template!r}, but {where} has no field {unknown[0]!r}{hint}; got "
            f"{shown(table.columns)}"
        )
    rows = table.select(fields).iter_rows(named=True)
    texts = [_filled(template, row) if any(row.values()) else None for row in rows]
    return pl.Series(texts, dtype=pl.String)


def fields_of(template: str) -> list[str]:
    """The fields that a template names, each once; raises UserError where it is none."""
    try:
        parts = [part for part in string.Formatter().parse(template) if part[1] is not None]
        names = [str(name) for _, name, _, _ in parts]
    except ValueError as error:
        raise UserError(f"items.template: got {template!r}: {error}; expected text with fields, as {{title}}") from None
    if not names or not all(name.isidentifier() for name in names):
        raise UserError(
            f"items.template: got {template!r}, expected text with fields of the items table, as {{title}}; fields "
            "without a name get one by items.columns, as in {plot: '10'}"
        )
    formed = [name for _, name, form, change in parts if form or change]
    if formed:
        raise UserError(
            f"items.template: got {template!r}, which says how to write {formed[0]}; expected {{{formed[0]}}} alone: "
            "fields are put in as the table has them"
        )
    return list(dict.fromkeys(names))


def _filled(template: str, row: dict[str, Any]) -> str | None:
    """The template of a row in one line, without the signs that an absent field leaves behind at the ends; None where
    nothing else is left."""
    text = template.format_map({name: value or "" for name, value in row.items()})
    found = " ".join(text.split()).strip(" ,;:-|").removeprefix(". ")
    return found if found.strip(" .,;:-|") else None
