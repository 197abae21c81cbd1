"""Columns as texts of PostgreSQL's COPY, made column by column: no Python object is made for a cell. Pure.

A column's type says how it is written: decimals exactly, doubles with the fewest digits that give them back, times in
ISO 8601, lists of records as JSON. https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ravencore.records import IvPoint, VenueMid
from sinks.arrow import TEXT, Numbers

COPY_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
"""Backslashes first."""
COPY_TABLE = str.maketrans(COPY_ESCAPES)
JSON_ESCAPES = {
    char: json.dumps(char)[1:-1].translate(COPY_TABLE) for char in ("\\", '"', *(chr(code) for code in range(32)))
}
"""Within a text of JSON that is itself a text of COPY."""
NULL = "\\N"
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999."""
ITEMS: Mapping[str, tuple[str, ...]] = {"venues": VenueMid.__struct_fields__, "points": IvPoint.__struct_fields__}
"""Fields of the records in a list."""


def tabbed(*values: object) -> str:
    """Cells of texts and numbers, tabs between them."""
    return "\t".join([str(value).translate(COPY_TABLE) for value in values])


def lines(heads: pa.StringArray, columns: Mapping[str, pa.Array]) -> pa.StringArray:
    """Lines that start so and hold these columns, each with its end."""
    *others, last = [_cells(name, array) for name, array in columns.items()]
    last = _joined(last, "\n", null=NULL)
    return pc.binary_join_element_wise(heads, *others, last, "\t", null_handling="replace", null_replacement=NULL)


def numbered(numbers: Numbers, lines: pa.StringArray) -> pa.StringArray:
    """Lines with a number before each."""
    return _joined(pa.array(numbers).cast(TEXT), "\t", lines)


def text(texts: pa.StringArray) -> memoryview:
    """The bytes of texts, one behind the other."""
    if not len(texts):
        return memoryview(b"")
    _, offsets, data = texts.buffers()
    borders = np.frombuffer(offsets, np.int32)
    return memoryview(data or b"")[borders[texts.offset] : borders[texts.offset + len(texts)]]


def field(items: pa.StructArray, name: str) -> pa.Array:
    """A field of records within records; null where these are of a schema without it."""
    there = items.type.get_field_index(name) >= 0
    return pc.struct_field(items, name) if there else pa.nulls(len(items), TEXT)


def _cells(name: str, array: pa.Array) -> pa.Array:
    """A column as texts; null stays null."""
    if name in ITEMS:
        return _listed("[", array, _objects(array.flatten(), ITEMS[name]), "]")
    if pa.types.is_list(array.type):
        return _listed("{", array, _pairs(array.flatten()), "}")
    return _escaped(array, COPY_ESCAPES) if _is_text(array.type) else _plain(array)


def _plain(array: pa.Array) -> pa.Array:
    return _times(array) if pa.types.is_timestamp(array.type) else array.cast(TEXT)


def _times(array: pa.Array) -> pa.Array:
    """Times in UTC; those that no calendar has as what PostgreSQL refuses."""
    texts = _joined(array.cast(pa.timestamp("us")).cast(TEXT), "Z")  # fifteen times as fast as with its zone
    micros = array.view(pa.int64())
    borders = pc.min_max(micros)
    if array.null_count == len(array) or (borders["min"].as_py() >= FIRST_US and borders["max"].as_py() <= LAST_US):
        return texts
    there = pc.and_(pc.greater_equal(micros, FIRST_US), pc.less_equal(micros, LAST_US))
    return pc.if_else(there, texts, _joined("no year that there is: ", micros.cast(TEXT), "us"))


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(type) or pa.types.is_string(type))


def _escaped(array: pa.Array, escapes: Mapping[str, str]) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        return _escaped(array.dictionary, escapes).take(array.indices)
    found = bytes(text(array))
    for char, instead in escapes.items():
        if char.encode() in found:
            array = pc.replace_substring(array, char, instead)
    return array


# JSON


def _listed(start: str, lists: pa.ListArray, items: pa.Array, end: str) -> pa.Array:
    offsets = pc.subtract(lists.offsets, lists.offsets[0])
    return _joined(start, pc.binary_join(pa.ListArray.from_arrays(offsets, items), ", "), end)


def _objects(items: pa.StructArray, names: Sequence[str]) -> pa.Array:
    """Records as objects."""
    parts = [part for name in names for part in (f', "{name}": ', _json(field(items, name)))]
    return _joined("{" + parts[0].removeprefix(", "), *parts[1:], "}", null="null")


def _pairs(items: pa.StructArray) -> pa.Array:
    """Keys and values of maps."""
    return _joined(_json(field(items, "key")), ": ", _json(field(items, "value")), null="null")


def _json(array: pa.Array) -> pa.Array:
    """Values as JSON, which has no NaN and no infinity, so that PostgreSQL refuses those; null stays null."""
    if _is_text(array.type):
        return _joined('"', _escaped(array, JSON_ESCAPES), '"')
    return _shortest(array) if pa.types.is_decimal(array.type) else _plain(array)


def _shortest(array: pa.Array) -> pa.Array:
    """Decimals without zeros at their end, which jsonb would keep."""
    coded = array.dictionary_encode()
    texts = [one if "E" in one else one.rstrip("0").rstrip(".") for one in coded.dictionary.cast(TEXT).to_pylist()]
    return pa.array(texts, TEXT).take(coded.indices)


def _joined(*parts: pa.Array | str, null: str | None = None) -> pa.StringArray:
    """Texts put together; a null in one makes a null, or is written so."""
    if null is None:
        return pc.binary_join_element_wise(*parts, "")
    return pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement=null)
