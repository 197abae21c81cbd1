"""Columns made of a batch at once are what the codec decodes one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from io import BytesIO
from typing import Any

import fastavro
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravencore.codec import Codec, Schema, load_schema, pinned_schemas, raw_schema
from ravencore.decimals import LIMIT
from ravencore.errors import Unreadable
from ravencore.records import RECORDS, Book, Record
from sinks.arrow import DECIMAL, Columns, Torn
from tests.sinks.rig import CODEC, trade

KINDS = [cls for cls in RECORDS if cls.SCHEMA not in ("demand", "service_status", "state", "dead_letter")]
MICROS = st.integers(-(2**60), 2**57)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
DECIMALS = st.one_of(st.integers(-300, 300), st.integers(-(10**20), 10**20), st.integers(1 - LIMIT, LIMIT - 1))
PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "double": st.floats(allow_nan=False),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.one_of(st.integers(-100, 100), st.integers(-(2**63), 2**63 - 1)),
    "string": st.one_of(st.sampled_from(["", "BTCUSDT", "BTC/USD"]), TEXTS),
}


def values_of(schema: Any, named: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """Values of a schema, as Raven's records hold them."""
    if isinstance(schema, list):
        return st.one_of(st.none(), values_of(schema[1], named))
    if isinstance(schema, str):
        return PRIMITIVES[schema] if schema in PRIMITIVES else named[schema]
    match schema["type"]:
        case "record":
            fields = {field["name"]: values_of(field["type"], named) for field in schema["fields"]}
            record = named[schema["name"]] = st.fixed_dictionaries(fields)
            return record
        case "array":
            return st.lists(values_of(schema["items"], named), max_size=3)
        case "map":
            return st.dictionaries(PRIMITIVES["string"], values_of(schema["values"], named), max_size=3)
        case "enum":
            symbols: st.SearchStrategy[Any] = st.sampled_from(schema["symbols"])
            named[schema["name"]] = symbols
            return symbols
        case plain:
            logical = {"decimal": DECIMALS, "timestamp-micros": MICROS}
            name = schema.get("logicalType")
            return logical[name] if name in logical else values_of(plain, named)


def records_of(cls: type[Record]) -> st.SearchStrategy[list[Record]]:
    return st.lists(
        values_of(load_schema(f"{cls.SCHEMA}.avsc"), {}).map(lambda fields: msgspec.convert(fields, cls)),
        min_size=1,
        max_size=8,
    )


def plain(value: Any) -> Any:
    """A value of a column as Raven's records hold it."""
    if isinstance(value, Decimal):
        return int(value.scaleb(18, Context(prec=60)))
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    if isinstance(value, list | tuple):
        if value and isinstance(value[0], dict) and value[0].keys() == {"key", "value"}:
            return {item["key"]: item["value"] for item in value}
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()} or []  # an empty map is an empty list of items
    return value


def fields_of(record: Record) -> Any:
    """The same of a record."""
    return plain(msgspec.to_builtins(record, builtin_types=(bytes,)))


def rows_of(table: Any) -> list[Any]:
    """Rows of a table, its times as microseconds: Python's datetime has no year 10,000."""
    return [plain(row) for row in _bare(table).to_pylist()]


def _bare(table: Any) -> Any:
    import pyarrow as pa

    def bare(kind: Any) -> Any:
        if pa.types.is_timestamp(kind):
            return pa.int64()
        if pa.types.is_list(kind):
            return pa.list_(bare(kind.value_type))
        if pa.types.is_struct(kind):
            return pa.struct([(field.name, bare(field.type)) for field in kind])
        return kind

    return table.cast(pa.schema([(field.name, bare(field.type)) for field in table.schema]))


def columns_of(schema: Schema) -> Columns:
    return Columns(schema, schema)


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.SCHEMA)
@settings(max_examples=15)
@given(data=st.data())
def test_columns_hold_what_the_records_do(cls: type[Record], data: st.DataObject) -> None:
    records = data.draw(records_of(cls))
    table = columns_of(load_schema(f"{cls.SCHEMA}.avsc")).table([CODEC.encode(record) for record in records])
    table.validate(full=True)
    assert rows_of(table) == [fields_of(record) for record in records]


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.SCHEMA)
@settings(max_examples=15)
@given(data=st.data())
def test_of_bytes_that_are_no_record_there_are_no_columns(cls: type[Record], data: st.DataObject) -> None:
    """And if they are one still, it is the one that the codec finds."""
    records = data.draw(records_of(cls))
    values = [CODEC.encode(record) for record in records]
    spoilt = data.draw(st.integers(0, len(values) - 1))
    body = bytearray(values[spoilt])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(5, len(body) - 1))
        body[place : place + 1] = data.draw(st.binary(max_size=2))
        if len(body) <= 5:
            break
    values[spoilt] = bytes(body)
    try:
        table = columns_of(load_schema(f"{cls.SCHEMA}.avsc")).table(values)
    except Torn:
        return
    table.validate(full=True)
    assert str(rows_of(table)[spoilt]) == str(fields_of(CODEC.decode_as(cls, values[spoilt])))


def test_a_number_of_39_digits_is_no_decimal() -> None:
    columns = columns_of(load_schema("trade.avsc"))
    for price in (LIMIT, -LIMIT, 2**127, -(2**127), 2**200):
        with pytest.raises(Torn):
            columns.table([CODEC.encode(trade("S", 1, price=price))])
    edges = [LIMIT - 1, 1 - LIMIT, 2**63, -(2**63), 2**64, -(2**64) - 1, 255, -256, 0]
    table = columns.table([CODEC.encode(trade("S", 1, price=price)) for price in edges])
    assert table.schema.field("price").type == DECIMAL
    assert [plain(value) for value in table["price"].to_pylist()] == edges


def test_fields_that_a_writer_has_not_yet_get_their_defaults() -> None:
    """Every schema that ever was pinned is read, with today's columns."""
    for number, old in pinned_schemas().items():
        own = load_schema(f"{next(cls.SCHEMA for cls in RECORDS if cls.__name__ == old['name'])}.avsc")
        record = {field["name"]: _some(field["type"], {}) for field in old["fields"]}
        body = BytesIO()
        fastavro.schemaless_writer(body, fastavro.parse_schema(raw_schema(old)), record)
        value = b"\0" + number.to_bytes(4, "big") + body.getvalue()
        table = Columns(old, own).table([value, value])
        assert set(table.schema.names) == {field["name"] for field in own["fields"]}
        decoded = fields_of(CODEC.decode(value))
        assert rows_of(table) == [decoded, decoded]


def _some(schema: Any, named: dict[str, Any]) -> Any:
    """Some value of a schema as fastavro takes it."""
    if isinstance(schema, list):
        return None
    if isinstance(schema, str):
        return {"string": "x", "boolean": True, "double": 1.5, "bytes": b"\1"}.get(schema, 3)
    match schema["type"]:
        case "enum":
            return schema["symbols"][-1]
        case "array":
            return []
        case "map":
            return {}
        case plain:
            return _some(plain, named)


def test_fields_that_only_a_newer_writer_has_become_columns() -> None:
    own = load_schema("trade.avsc")
    added = {"name": "fee", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 18}]}
    newer = {**own, "fields": [*own["fields"], added]}
    value = CODEC.encode(trade("S", 1))
    table = Columns(newer, own).table([value + b"\0", value + b"\2\2\5"])
    assert rows_of(table.select(["trade_id", "fee"])) == [{"trade_id": "1", "fee": None}, {"trade_id": "1", "fee": 5}]


NEWER: tuple[tuple[Any, bytes, Any], ...] = (
    ("float", b"\0\0\xc0\x3f", 1.5),
    ("null", b"", None),
    (["string"], b"\0\2q", {"member0": "q"}),
    (["null", "string", "long"], b"\2\2x", {"member0": None, "member1": "x", "member2": None}),
    (["null", "string", "long"], b"\4\6", {"member0": None, "member1": None, "member2": 3}),
    ({"type": "fixed", "name": "Mark", "size": 4}, b"abcd", b"abcd"),
    ({"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}, b"\4\4\xd2", Decimal("12.34")),
    (["null", "raven.Side"], b"\2\2", "SELL"),
)
"""Types of a field to come, a value of it as it stands in Avro, and as a column has it."""


@pytest.mark.parametrize(("type", "raw", "value"), NEWER, ids=lambda one: str(one)[:40])
def test_a_newer_field_of_any_type_becomes_a_column(type: Any, raw: bytes, value: Any) -> None:
    own = load_schema("trade.avsc")
    writer = {**own, "fields": [*own["fields"], {"name": "news", "type": type}]}
    values = [CODEC.encode(trade("S", number)) + raw for number in range(3)]
    table = Columns(writer, own).table(values)
    assert table["news"].to_pylist() == [value] * 3
    pq.write_table(table, pa.BufferOutputStream())


def test_unions_of_several_types_are_walked_row_by_row() -> None:
    own = load_schema("trade.avsc")
    writer = {**own, "fields": [*own["fields"], {"name": "news", "type": ["long", "string", "null"]}]}
    raws = [b"\0\6", b"\2\2x", b"\4", b"\0\1"]
    table = Columns(writer, own).table([CODEC.encode(trade("S", n)) + raw for n, raw in enumerate(raws)])
    assert [(row["member0"], row["member1"]) for row in table["news"].to_pylist()] == [
        (3, None), (None, "x"), (None, None), (-1, None),
    ]  # fmt: skip
    with pytest.raises(Torn):
        Columns(writer, own).table([CODEC.encode(trade("S", 1)) + b"\6"])


def test_blocks_of_an_array_are_put_together() -> None:
    """Avro lets an array come in several blocks, with their sizes or without."""
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "some", "type": {"type": "array", "items": "long"}}, {"name": "more", "type": "long"}],
    }
    header = b"\0\0\0\0\1"
    table = columns_of(schema).table([header + b"\4\2\4\2\6\0\x10", header + b"\0\x12", header + b"\3\4\2\4\2\6\0\x14"])
    assert table.to_pylist() == [
        {"some": [1, 2, 3], "more": 8},
        {"some": [], "more": 9},
        {"some": [1, 2, 3], "more": 10},
    ]


def test_a_count_that_cannot_be_ends_at_once() -> None:
    schema = load_schema("book.avsc")
    with pytest.raises(Torn):
        columns_of(schema).table([b"\0\0\0\0\1" + b"\xfe" * 9 + b"\1"])
    with pytest.raises(Unreadable):
        Codec().decode(b"\0\0\0\0\1")


@settings(max_examples=40)
@given(data=st.data())
def test_of_arrays_the_first_items_alone_can_be_read(data: st.DataObject) -> None:
    records: list[Any] = data.draw(records_of(Book))
    schema = load_schema("book.avsc")
    table = Columns(schema, schema, heads=True).table([CODEC.encode(record) for record in records])
    table.validate(full=True)
    for row, record in zip(rows_of(table), records, strict=True):
        fields = fields_of(record)
        best = {side: fields[side][0] if fields[side] else None for side in ("bids", "asks")}
        assert row == {**fields, **best}


def test_the_first_item_of_an_array_in_several_blocks_is_found() -> None:
    """And one that claims more items than there are is torn all the same."""
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "some", "type": {"type": "array", "items": "long"}}, {"name": "more", "type": "long"}],
    }
    columns, header = Columns(schema, schema, heads=True), b"\0\0\0\0\1"
    table = columns.table([header + b"\4\2\4\2\6\0\x10", header + b"\0\x12", header + b"\3\4\6\4\2\6\0\x14"])
    assert table.to_pylist() == [{"some": 1, "more": 8}, {"some": None, "more": 9}, {"some": 3, "more": 10}]
    with pytest.raises(Torn):
        columns.table([header + b"\xc8\1\2\4\0\x10"])
