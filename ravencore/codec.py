"""Records to Avro bytes in Confluent's wire format and back.

A value is a zero byte, the schema's id (4 bytes, big-endian), then the Avro body:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
Ids are those pinned in schemas/pins.json, or those of a schema registry; decoding knows both.

fastavro is given the schemas without their logical types: decimals then pass as raw bytes and times as integers, which
is three times faster than Decimal and datetime objects and is exact.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from io import BytesIO
from typing import Any, Protocol, TypeVar

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError
from msgspec.structs import asdict

from ravencore.decimals import to_text
from ravencore.errors import Unreadable
from ravencore.records import RECORDS, Record, Trade

MAGIC = b"\x00"
HEADER_BYTES = 5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Schema = dict[str, Any]
R = TypeVar("R", bound=Record)
_TORN = EOFError, ValueError, IndexError, OverflowError, MemoryError, SchemaResolutionError
_Convert = Callable[[Any], Any]
_Leaf = Callable[[Schema], _Convert | None]


class Registry(Protocol):
    """Where ids come from when they are not the pinned ones (`ravencore.registry`)."""

    def id_of(self, record: str, schema: Schema) -> int:
        """Id to write `record` with; registers the schema where it is new."""

    def schema_of(self, schema_id: int) -> Schema:
        """Schema of an id; raises Unreadable when there is none, Unavailable when the registry is away."""


def load_schema(file: str) -> Schema:
    """The .avsc of that name under schemas/, as it is written there."""
    schema: Schema = json.loads(files("schemas").joinpath(file).read_text())
    return schema


@functools.cache
def pinned_schemas() -> Mapping[int, Schema]:
    """Every schema that Raven ever wrote by its pinned id, oldest first."""
    pins = json.loads(files("schemas").joinpath("pins.json").read_text())
    return {int(schema_id): load_schema(pin["file"]) for schema_id, pin in pins.items()}


def pinned_id(record: str) -> int:
    """The id that records of a schema (`trade`, `bar`, ...) are written with when there is no registry."""
    name = load_schema(f"{record}.avsc")["name"]
    return max(schema_id for schema_id, schema in pinned_schemas().items() if schema["name"] == name)


class Codec:
    """Encodes and decodes every record of Raven; one per process."""

    def __init__(self, registry: Registry | None = None) -> None:
        self._registry = registry
        self._types = {load_schema(f"{cls.SCHEMA}.avsc")["name"]: cls for cls in RECORDS}
        self._writers = {cls: _writer(load_schema(f"{cls.SCHEMA}.avsc")) for cls in RECORDS}
        self._readers: dict[bytes, tuple[type[Record], Callable[[BytesIO], Any], _Convert]] = {}
        self._headers: dict[type[Record], bytes] = {}
        self._trades: dict[bytes, Any] = {}

    def header(self, cls: type[Record]) -> bytes:
        """The five bytes that every value of this record starts with."""
        if cls not in self._headers:
            schema = load_schema(f"{cls.SCHEMA}.avsc")
            number = self._registry.id_of(cls.SCHEMA, schema) if self._registry else pinned_id(cls.SCHEMA)
            self._headers[cls] = MAGIC + number.to_bytes(4, "big")
        return self._headers[cls]

    def encode(self, record: Record) -> bytes:
        """The record as a Kafka value; raises BadValue or ValueError when a field does not fit its schema."""
        out = BytesIO()
        out.write(self.header(type(record)))
        self._writers[type(record)](out, record)
        return out.getvalue()

    def decode(self, value: bytes | None) -> Record:
        """The record in a Kafka value; raises Unreadable."""
        value = value or b""
        cls, read, convert = self._reader(_header(value))
        body = BytesIO(value)
        body.seek(HEADER_BYTES)
        try:
            fields = convert(read(body))
            record = msgspec.convert(fields, cls)
        except (*_TORN, msgspec.ValidationError) as error:
            raise Unreadable(f"torn {cls.__name__}: {error or type(error).__name__}") from None
        if body.tell() != len(value):
            raise Unreadable(f"{len(value) - body.tell()} bytes after the end of a {cls.__name__}")
        return record

    def decode_as(self, cls: type[R], value: bytes | None) -> R:
        """The record in a Kafka value, which must be of the type given; raises Unreadable."""
        record = self.decode(value)
        if not isinstance(record, cls):
            raise Unreadable(f"a {type(record).__name__} where a {cls.__name__} belongs")
        return record

    def writer_schema(self, value: bytes) -> Schema:
        """The schema that a Kafka value was written with; raises Unreadable, Unavailable."""
        return self._schema_of(int.from_bytes(_header(value)[1:], "big"))

    def decode_trades(self, values: Sequence[bytes]) -> list[dict[str, Any]] | None:
        """Trades of a whole batch in one call of fastavro: dicts of raw fields, decimals as big-endian bytes.

        None when the values are not all intact Trades of this code's own schema: decode those one by one.
        Joined, they are the body of an Avro array whose items start with the fixed five bytes of the header; the
        headers and the end being where they must proves that no value was torn or had bytes too many.
        """
        header = self.header(Trade)
        if header not in self._trades:
            self._trades[header] = _batch_schema(load_schema("trade.avsc"))
        if not values:
            return []
        joined = BytesIO(_zigzag(len(values)) + b"".join(values) + b"\x00")
        try:
            rows: Any = fastavro.schemaless_reader(joined, self._trades[header], None)
        except _TORN:
            return None
        intact = joined.read(1) == b"" and all(row["header"] == header for row in rows)
        return rows if intact and len(rows) == len(values) else None

    def _reader(self, header: bytes) -> tuple[type[Record], Callable[[BytesIO], Any], _Convert]:
        if header not in self._readers:
            writer = self._schema_of(int.from_bytes(header[1:], "big"))
            cls = self._types.get(str(writer.get("name", "")))
            if cls is None:
                raise Unreadable(f"schema {writer.get('name')!r} is none of Raven's")
            reader = load_schema(f"{cls.SCHEMA}.avsc")
            self._readers[header] = (
                cls,
                _resolving_reader(writer, reader),
                _converter(reader, _unpack_leaf, {}) or _same,
            )
        return self._readers[header]

    def _schema_of(self, schema_id: int) -> Schema:
        pinned = pinned_schemas().get(schema_id)
        if pinned is not None:
            return pinned
        if self._registry is None:
            raise Unreadable(f"schema id {schema_id} is not pinned, and no schema registry is configured")
        return self._registry.schema_of(schema_id)


def _header(value: bytes) -> bytes:
    if len(value) < HEADER_BYTES or value[:1] != MAGIC:
        raise Unreadable(f"not in Confluent framing: {value[:16].hex() or 'empty'}")
    return bytes(value[:HEADER_BYTES])


def plain(record: Record) -> dict[str, Any]:
    """A record for people and JSON: decimals as text, times as ISO 8601 with microseconds, bytes as text or hex."""
    shown: dict[str, Any] = _shower(f"{type(record).SCHEMA}.avsc")(record)
    return shown


def exact(record: Record) -> dict[str, Any]:
    """A record for JSON that loses nothing: decimals as text, times as microseconds, all else as it is."""
    fields: dict[str, Any] = _texts(f"{type(record).SCHEMA}.avsc")(record)
    return fields


def iso_time(micros: int) -> str:
    """Microseconds of the epoch as ISO 8601 in UTC: `2026-11-21T01:02:03.000004Z`; else the number."""
    try:
        moment = EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return f"{micros}us"
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def decimal_bytes(units: int) -> bytes:
    """An unscaled integer as Avro's decimal: the shortest two's complement, big-endian."""
    return units.to_bytes(units.bit_length() // 8 + 1, "big", signed=True)


def decimal_units(raw: bytes) -> int:
    """The unscaled integer in Avro's decimal bytes."""
    return int.from_bytes(raw, "big", signed=True)


def raw_schema(schema: Any) -> Any:
    """A schema without its logical types, docs kept out: what fastavro is given."""
    if isinstance(schema, list):
        return [raw_schema(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "logicalType" in schema:
        return schema["type"]
    return {name: raw_schema(part) for name, part in schema.items() if name != "doc"}


def _same(value: Any) -> Any:
    return value


def _writer(schema: Schema) -> Callable[[BytesIO, Record], None]:
    parsed = fastavro.parse_schema(raw_schema(schema))
    pack = _converter(schema, _pack_leaf, {}) or _same

    def write(out: BytesIO, record: Record) -> None:
        fastavro.schemaless_writer(out, parsed, pack(record))

    return write


def _resolving_reader(writer: Schema, reader: Schema) -> Callable[[BytesIO], Any]:
    parsed_writer = fastavro.parse_schema(raw_schema(writer))
    parsed_reader = None if writer == reader else fastavro.parse_schema(raw_schema(reader))

    def read(body: BytesIO) -> Any:
        return fastavro.schemaless_reader(body, parsed_writer, parsed_reader)

    return read


def _batch_schema(trade: Schema) -> Any:
    header = {"name": "header", "type": {"type": "fixed", "name": "Header", "size": HEADER_BYTES}}
    item = raw_schema(trade)
    return fastavro.parse_schema({"type": "array", "items": {**item, "fields": [header, *item["fields"]]}})


def _zigzag(count: int) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, "long", count)
    return out.getvalue()


def _converter(schema: Any, leaf: _Leaf, names: dict[str, Any]) -> _Convert | None:
    """A function that converts a value's leaves by their schema, or None where nothing in it needs converting."""
    if isinstance(schema, list):
        return _optional(next(filter(None, (_converter(part, leaf, names) for part in schema)), None))
    if isinstance(schema, str):
        return _converter(names[schema], leaf, names) if schema in names else leaf({"type": schema})
    if schema["type"] == "array":
        return _each(_converter(schema["items"], leaf, names))
    if schema["type"] != "record":
        return leaf(schema)
    names[schema["name"]] = schema
    found = {field["name"]: _converter(field["type"], leaf, names) for field in schema["fields"]}
    return _fields({name: convert for name, convert in found.items() if convert})


def _optional(convert: _Convert | None) -> _Convert | None:
    return (lambda value: None if value is None else convert(value)) if convert else None


def _each(convert: _Convert | None) -> _Convert | None:
    return (lambda values: [convert(value) for value in values]) if convert else None


def _fields(converts: dict[str, _Convert]) -> _Convert:
    def apply(value: Any) -> dict[str, Any]:
        row = dict(value) if isinstance(value, dict) else asdict(value)
        for name, convert in converts.items():
            row[name] = convert(row[name])
        return row

    return apply


def _pack_leaf(schema: Schema) -> _Convert | None:
    return decimal_bytes if schema.get("logicalType") == "decimal" else None


def _unpack_leaf(schema: Schema) -> _Convert | None:
    return decimal_units if schema.get("logicalType") == "decimal" else None


def _show_leaf(schema: Schema) -> _Convert | None:
    if schema["type"] == "bytes":
        return to_text if schema.get("logicalType") == "decimal" else _show_bytes
    return iso_time if schema.get("logicalType") == "timestamp-micros" else None


def _text_leaf(schema: Schema) -> _Convert | None:
    return to_text if schema.get("logicalType") == "decimal" else None


def _show_bytes(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.hex()


@functools.cache
def _shower(file: str) -> _Convert:
    return _converter(load_schema(file), _show_leaf, {}) or _same


@functools.cache
def _texts(file: str) -> _Convert:
    return _converter(load_schema(file), _text_leaf, {}) or asdict
