"""The wire: every record round trips, torn bytes are refused, and the batch reader agrees with the single one."""

import contextlib
import json
from io import BytesIO
from typing import Any, Literal, get_args, get_origin, get_type_hints

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.codec import (
    HEADER_BYTES,
    Codec,
    Schema,
    decimal_units,
    iso_time,
    load_schema,
    pinned_id,
    pinned_schemas,
    plain,
    raw_schema,
)
from ravencore.decimals import LIMIT
from ravencore.errors import Unreadable
from ravencore.records import RECORDS, Demand, Record, State, Trade

CODEC = Codec()
INT64 = st.integers(-(2**63), 2**63 - 1)


def values_of(schema: Any, names: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Any value that a schema's type allows, as the records hold it."""
    if isinstance(schema, str):
        schema = names.get(schema, {"type": schema})
    if isinstance(schema, list):
        return st.one_of([values_of(part, names) for part in schema])
    match schema:
        case {"logicalType": "decimal"}:
            return st.integers(-LIMIT + 1, LIMIT - 1)
        case {"type": "record"}:
            names[schema["name"]] = schema
            fields = {field["name"]: values_of(field["type"], names) for field in schema["fields"]}
            return st.fixed_dictionaries(fields)
        case {"type": "enum"}:
            return st.sampled_from(schema["symbols"])
        case {"type": "array"}:
            return st.lists(values_of(schema["items"], names), max_size=3)
        case {"type": "map"}:
            return st.dictionaries(st.text(max_size=5), values_of(schema["values"], names), max_size=3)
    plain_types: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "string": st.text(max_size=12),
        "bytes": st.binary(max_size=12),
        "boolean": st.booleans(),
        "long": INT64,
        "int": st.integers(-(2**31), 2**31 - 1),
        "double": st.floats(allow_nan=False),
    }
    return plain_types[schema["type"]]


def records() -> st.SearchStrategy[Record]:
    """Any record of any type."""

    def of(cls: type[Record]) -> st.SearchStrategy[Record]:
        return values_of(load_schema(f"{cls.SCHEMA}.avsc"), {}).map(lambda fields: msgspec.convert(fields, cls))

    return st.one_of([of(cls) for cls in RECORDS])


@given(records())
def test_decode_gives_back_what_was_encoded(record: Record) -> None:
    assert CODEC.decode(CODEC.encode(record)) == record


@given(records())
def test_a_generic_avro_reader_sees_the_same_record(record: Record) -> None:
    """kcat, Connect, ksqlDB and Flink read with the .avsc as it is, logical types and all."""
    value = CODEC.encode(record)
    assert value[0] == 0
    assert int.from_bytes(value[1:5], "big") == pinned_id(record.SCHEMA)
    schema = fastavro.parse_schema(raw_schema(load_schema(f"{record.SCHEMA}.avsc")))
    seen: Any = fastavro.schemaless_reader(BytesIO(value[HEADER_BYTES:]), schema, None)
    for name, shown in seen.items():
        held = getattr(record, name)
        if isinstance(shown, bytes) and isinstance(held, int):
            assert decimal_units(shown) == held


@given(records(), st.data())
def test_torn_or_padded_values_are_unreadable_or_another_record(record: Record, data: st.DataObject) -> None:
    value = CODEC.encode(record)
    with pytest.raises(Unreadable):
        CODEC.decode(value + b"\x00")
    with pytest.raises(Unreadable):
        CODEC.decode(value[: data.draw(st.integers(0, len(value) - 1))])


@given(st.binary(max_size=64))
def test_any_bytes_give_a_record_or_unreadable(noise: bytes) -> None:
    for framed in (noise, b"\x00\x00\x0f\x42\x41" + noise, b"\x00\x00\x0f\x42\x49" + noise):
        with contextlib.suppress(Unreadable):
            assert type(CODEC.decode(framed)) in RECORDS


@given(st.lists(values_of(load_schema("trade.avsc"), {}), min_size=0, max_size=20))
def test_the_batch_reader_agrees_with_the_single_one(rows: list[dict[str, Any]]) -> None:
    trades = [Trade(**row) for row in rows]
    seen = CODEC.decode_trades([CODEC.encode(trade) for trade in trades])
    assert seen is not None
    for row in seen:
        row.pop("header")
        row["price"], row["quantity"] = decimal_units(row["price"]), decimal_units(row["quantity"])
    assert [Trade(**row) for row in seen] == trades


@given(st.lists(values_of(load_schema("trade.avsc"), {}), min_size=1, max_size=5), st.data())
def test_one_torn_or_foreign_value_sends_the_batch_to_the_single_reader(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    values = [CODEC.encode(Trade(**row)) for row in rows]
    bad = data.draw(st.integers(0, len(values) - 1))
    foreign = CODEC.encode(Demand(demand_id="d", user="u", symbol="S", created_time=1))
    for spoilt in (values[bad][:-1], values[bad] + b"\x00", b"", foreign, values[bad][HEADER_BYTES:]):
        assert CODEC.decode_trades([*values[:bad], spoilt, *values[bad + 1 :]]) is None


def test_an_unknown_schema_id_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="id 77 is not pinned"):
        CODEC.decode(b"\x00\x00\x00\x00\x4d" + b"abc")


def test_a_record_of_another_type_is_refused() -> None:
    value = CODEC.encode(Demand(demand_id="d", user="u", symbol="S", created_time=1))
    with pytest.raises(Unreadable, match="a Demand where a Trade belongs"):
        CODEC.decode_as(Trade, value)


def test_plain_shows_decimals_as_text_and_times_as_iso() -> None:
    trade = Trade(
        venue="V",
        symbol="S",
        event_time=1_723_161_254_000_001,
        received_time=0,
        trade_id="1",
        price=15 * 10**17,
        quantity=1,
        side="BUY",
    )
    shown = plain(trade)
    assert shown["price"] == "1.5"
    assert shown["quantity"] == "0.000000000000000001"
    assert shown["event_time"] == "2024-08-08T23:54:14.000001Z"
    assert json.loads(json.dumps(shown)) == shown


def test_times_outside_the_calendar_are_shown_too() -> None:
    assert iso_time(-1) == "1969-12-31T23:59:59.999999Z"
    assert iso_time(2**63 - 1) == "9223372036854775807us"


class OtherIds:
    """A registry that numbers schemas its own way, and knows one newer Trade."""

    def __init__(self, newer: Schema) -> None:
        self._newer = newer

    def id_of(self, record: str, schema: Schema) -> int:
        return 7

    def schema_of(self, schema_id: int) -> Schema:
        return {7: load_schema("trade.avsc"), 8: self._newer}[schema_id]


def test_registry_ids_and_pinned_ids_are_both_read_and_newer_fields_are_passed_over() -> None:
    newer = load_schema("trade.avsc")
    newer["fields"].append({"name": "venue_flag", "type": ["null", "string"], "default": None})
    codec = Codec(OtherIds(newer))
    trade = Trade(venue="V", symbol="S", event_time=1, received_time=2, trade_id="3", price=4, quantity=5, side="SELL")
    value = codec.encode(trade)
    assert value[:5] == b"\x00\x00\x00\x00\x07"
    assert codec.decode(value) == trade == codec.decode(CODEC.encode(trade))
    assert codec.decode(b"\x00\x00\x00\x00\x08" + value[5:] + b"\x02\x04ab") == trade
    assert codec.decode_trades([CODEC.encode(trade)]) is None


def test_a_symbol_that_is_not_known_yet_is_unreadable() -> None:
    newer = load_schema("trade.avsc")
    side = next(field for field in newer["fields"] if field["name"] == "side")
    side["type"] = {**side["type"], "symbols": ["CROSS", "SELL", "BUY"]}
    trade = Trade(
        venue="V", symbol="S", event_time=1, received_time=1, trade_id="1", price=1, quantity=1, side="BUY"
    )  # fmt: skip
    with pytest.raises(Unreadable, match="CROSS"):
        Codec(OtherIds(newer)).decode(b"\0\0\0\0\x08" + CODEC.encode(trade)[HEADER_BYTES:])


@pytest.mark.parametrize("cls", RECORDS)
def test_each_class_has_its_schemas_fields_in_order(cls: type[Record]) -> None:
    schema = load_schema(f"{cls.SCHEMA}.avsc")
    assert [field["name"] for field in schema["fields"]] == list(cls.__struct_fields__)


@pytest.mark.parametrize("cls", RECORDS)
def test_each_classes_words_are_its_schemas_symbols(cls: type[Record]) -> None:
    hints = get_type_hints(cls)
    for field in load_schema(f"{cls.SCHEMA}.avsc")["fields"]:
        kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
        enums = [kind for kind in kinds if isinstance(kind, dict) and kind.get("type") == "enum"]
        words = [
            hint for hint in (hints[field["name"]], *get_args(hints[field["name"]])) if get_origin(hint) is Literal
        ]
        assert [set(enum["symbols"]) for enum in enums] == [set(get_args(word)) for word in words]


def test_state_payload_of_any_size_passes() -> None:
    state = State(
        input_topic="t", input_key="k", input_partitions=6, offset=1, layout=1, parameters="{}", payload=b"x" * 10**6
    )
    assert CODEC.decode(CODEC.encode(state)) == state


def test_every_record_has_a_pinned_id() -> None:
    assert {pinned_id(cls.SCHEMA) for cls in RECORDS} <= set(pinned_schemas())
