"""A batch of Avro values of one schema to Arrow columns, all at once.

numpy walks all values of a batch together, field by field, so that no Python object is made for a row. Any schema that
Raven may write or meet is walked: a writer's newer fields become columns too. Encoding of Avro:
https://avro.apache.org/docs/1.12.0/specification/#binary-encoding

    decimal    decimal128(38, 18)      timestamp-micros   timestamp[us, UTC]
    enum       dictionary of texts     string             dictionary of texts; text where each row has its own
    array      list                    record             struct; texts and enums within are plain text
    map        list of structs of key and value           union of several    struct of member0, member1 ...
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ravencore.codec import HEADER_BYTES, Schema
from ravencore.decimals import LIMIT, PRECISION, SCALE
from ravencore.pages import HIGH_BYTES, LONGEST_NUMBER, LOW_BYTES, Page, Words, unzigzagged, varint_bits, varint_numbers
from sinks.contract import Refused

Numbers = npt.NDArray[np.int64]

DECIMAL = pa.decimal128(PRECISION, SCALE)
TIME = pa.timestamp("us", "UTC")
TEXT = pa.string()
NAMES = pa.dictionary(pa.int32(), TEXT)

_U = np.uint64
_HEADER_BITS = _U((1 << 8 * HEADER_BYTES) - 1)
_VARINT_BYTES = 10
_LONG_BIT = _SIGN_BIT = 0x80
_NOT_SMALL = np.uint8(_LONG_BIT | 1)
_LIMIT_HIGH, _LIMIT_LOW = np.int64(LIMIT >> 64), _U(LIMIT & (1 << 64) - 1)
_FLOOR_HIGH, _FLOOR_LOW = np.int64(-LIMIT >> 64), _U(-LIMIT & (1 << 64) - 1)


class Torn(Refused):
    """Raised when one of the values at least is not an intact record of the schema, or holds what Arrow cannot."""


class Columns:
    """Makes columns of values of one writer's schema; fields that only `own` has get their defaults.

    With `heads` an array becomes a column of its first item, null where it is empty.
    """

    def __init__(self, writer: Schema, own: Schema, *, heads: bool = False) -> None:
        self._struct = _record(writer, heads=heads)
        self._names = self._struct.type.names
        types = _record(own, heads=heads).type
        self._missing = {
            field["name"]: (types.field(field["name"]).type, field.get("default"))
            for field in own["fields"]
            if field["name"] not in self._names
        }

    def table(self, values: Sequence[bytes]) -> pa.Table:
        """A row for each value, in their order; raises Torn."""
        page = _Page(values)
        if not page.of_one_schema():
            raise Torn("values of several schemas")
        try:
            columns, at = self._struct.columns(page, page.bodies)
        except (IndexError, UnicodeDecodeError, pa.ArrowInvalid) as error:
            raise Torn(str(error)) from None
        if (at != page.ends).any():
            raise Torn("it does not end where its fields do")
        made = pa.Table.from_arrays(columns, names=self._names)
        for name, (type, default) in self._missing.items():
            made = made.append_column(name, constant(default, type, len(values)))
        return made


def constant(value: Any, type: pa.DataType, count: int) -> pa.Array:
    """The same value for every row."""
    if value is None:
        return pa.nulls(count, type)
    if type == NAMES:
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value], TEXT))
    return pa.repeat(pa.scalar(value, type), count)


class _Page(Page):
    """The values, and what is read at any places of them."""

    def __init__(self, values: Sequence[bytes]) -> None:
        super().__init__(values)
        self.bodies: Numbers = self.starts + HEADER_BYTES

    def of_one_schema(self) -> bool:
        """Whether all values have the same header."""
        headers = self.little[self.starts] & _HEADER_BITS
        return bool((headers == headers[0]).all())

    def varints(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """Zigzag varints, and the places after them."""
        words = self.little[at]
        bits = varint_bits(words)
        if bits is None:
            return self._long_varints(at)
        return varint_numbers(words, bits), at + (np.bitwise_count(bits) >> 3)

    def small(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """The same, quicker where all are of one byte and none is below 0."""
        found = self.bytes[at]
        if (found & _NOT_SMALL).any():
            return self.varints(at)
        return (found >> 1).astype(np.int64), at + 1

    def _long_varints(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """The same where some are longer than 8 bytes."""
        words, going = np.zeros(len(at), np.uint64), np.ones(len(at), bool)
        for group in range(_VARINT_BYTES):
            found = self.bytes[at]
            words[going] |= (found[going] & _U(0x7F)).astype(np.uint64) << _U(7 * group)
            at = at + going
            going &= found >= _LONG_BIT
        if going.any():
            raise Torn("a number of more than 10 bytes")
        return unzigzagged(words), at

    def lengths(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """Lengths of texts and bytes, and the places of their first bytes."""
        lengths, first = self.small(at)
        if len(lengths) and not 0 <= lengths.min() <= lengths.max() <= self.longest:
            raise Torn("a length that cannot be")
        return lengths, first

    def past_bytes(self, at: Numbers) -> Numbers:
        """The places after texts and bytes."""
        found = self.bytes[at]
        if (found & _NOT_SMALL).any():
            lengths, first = self.lengths(at)
            return first + lengths
        return at + ((found >> 1) + np.uint8(1))


class _Kind(Protocol):
    """How a type is skipped, and read into an Arrow array; both give the places after it."""

    type: pa.DataType

    def skip(self, page: _Page, at: Numbers) -> Numbers: ...

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]: ...


class _Long:
    def __init__(self, type: pa.DataType) -> None:
        self.type = type

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return page.varints(at)[1]

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        numbers, after = page.varints(at)
        array = pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(numbers)])
        return array.cast(self.type) if self.type == pa.int32() else array.view(self.type), after


class _Boolean:
    type = pa.bool_()

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return at + 1

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        found = page.bytes[at]
        if (found > 1).any():
            raise Torn("a boolean that is neither")
        return pa.array(found.view(np.bool_)), at + 1


class _Double:
    type = pa.float64()

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return at + 8

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        return pa.array(page.little[at].view("<f8")), at + 8


class _Float:
    type = pa.float32()

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return at + 4

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        return pa.array(page.little[at].astype("<u4").view("<f4")), at + 4


class _Null:
    type = pa.null()

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return at

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        return pa.nulls(len(at)), at


class _Fixed:
    def __init__(self, size: int) -> None:
        self.type = pa.binary(size)
        self._size = size

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return at + self._size

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        found = page.bytes[at[:, None] + np.arange(self._size)]
        return pa.Array.from_buffers(self.type, len(at), [None, pa.py_buffer(found.tobytes())]), at + self._size


class _Bytes:
    """Bytes and texts: of an array that has all that lies between two of them as an item too, every other is taken."""

    def __init__(self, type: pa.DataType) -> None:
        self.type = type

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return page.past_bytes(at)

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        lengths, first = page.lengths(at)
        after = first + lengths
        if len(after) and after.max() > len(page.joined):
            raise Torn("it ends within a text")
        borders = np.empty(2 * len(at), np.int32)
        borders[0::2], borders[1::2] = first, after
        if (np.diff(borders) < 0).any():
            raise Torn("a text within another")
        if self.type == NAMES and _all_alike(page, first, lengths):
            return constant(page.joined[first[0] : after[0]].decode(), NAMES, len(at)), after
        buffers = [None, pa.py_buffer(borders), pa.py_buffer(page.joined)]
        every = pa.Array.from_buffers(pa.binary(), max(0, len(borders) - 1), buffers)
        taken = every.take(pa.array(np.arange(0, len(every), 2)))
        if self.type == NAMES:
            return _names(taken), after
        return taken.cast(self.type), after


def _all_alike(page: _Page, first: Numbers, lengths: Numbers) -> bool:
    """Whether all texts are the first one, as a venue's name is."""
    if not len(first) or (lengths != lengths[0]).any():
        return False
    length = int(lengths[0])
    for skipped in range(0, length, 8):
        unused = _U(8 * max(0, 8 + skipped - length))
        words = page.little[first + skipped] << unused
        if (words != words[0]).any():
            return False
    return True


def _names(array: pa.Array) -> pa.Array:
    coded = array.dictionary_encode()
    return pa.DictionaryArray.from_arrays(coded.indices, coded.dictionary.cast(TEXT))


class _Decimal:
    def __init__(self, scale: int) -> None:
        self.type = pa.decimal128(PRECISION, scale)

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return page.past_bytes(at)

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        lengths, first = page.lengths(at)
        after = first + lengths
        longest = lengths.max(initial=0)
        if longest > LONGEST_NUMBER:
            raise Torn(f"a number of more than {PRECISION} digits")
        low, high = page.big_endian(after, lengths)
        negative = (page.bytes[first] >= _SIGN_BIT) & (lengths > 0)
        if negative.any():
            low[negative] |= ~LOW_BYTES[lengths[negative]]
            high[negative] |= ~HIGH_BYTES[lengths[negative]]
        if longest == LONGEST_NUMBER and _too_large(low, high.view(np.int64)):
            raise Torn(f"a number of more than {PRECISION} digits")
        words = np.empty((len(at), 2), np.uint64)
        words[:, 0], words[:, 1] = low, high
        return pa.Array.from_buffers(self.type, len(at), [None, pa.py_buffer(words)]), after


def _too_large(low: Words, high: Numbers) -> bool:
    if high.max() < _LIMIT_HIGH and high.min() > _FLOOR_HIGH:
        return False
    above = (high > _LIMIT_HIGH) | ((high == _LIMIT_HIGH) & (low >= _LIMIT_LOW))
    below = (high < _FLOOR_HIGH) | ((high == _FLOOR_HIGH) & (low <= _FLOOR_LOW))
    return bool((above | below).any())


class _Enum:
    def __init__(self, symbols: Sequence[str], type: pa.DataType) -> None:
        self.type, self._symbols = type, pa.array(symbols, TEXT)

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return page.small(at)[1]

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        chosen, after = page.small(at)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self._symbols):
            raise Torn("a choice that there is not")
        array = pa.DictionaryArray.from_arrays(pa.array(chosen.astype(np.int32)), self._symbols)
        return array.cast(self.type), after


class _Optional:
    """A union of null and one type."""

    def __init__(self, kind: _Kind, null_first: bool) -> None:
        self.type, self._kind = kind.type, kind
        self._value = 2 if null_first else 0

    def _there(self, page: _Page, at: Numbers) -> npt.NDArray[np.bool_]:
        found = page.bytes[at]
        there: npt.NDArray[np.bool_] = found == self._value
        if (~there & (found != 2 - self._value)).any():
            raise Torn("a branch that there is not")
        return there

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        there, after = self._there(page, at), at + 1
        after[there] = self._kind.skip(page, after[there])
        return after

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        there, after = self._there(page, at), at + 1
        if there.all():
            return self._kind.read(page, after)
        if not there.any():
            return pa.nulls(len(at), self.type), after
        array, after[there] = self._kind.read(page, after[there])
        return _spread(array, there), after


def _spread(found: pa.Array, there: npt.NDArray[np.bool_]) -> pa.Array:
    """A row for each of `there`: what was found of those that are, null for the others."""
    return found.take(pa.array(np.cumsum(there) - 1, mask=~there))


class _Union:
    """A union of any other types: a struct with a member for each, of which one has the value."""

    def __init__(self, kinds: Sequence[_Kind]) -> None:
        self._kinds = kinds
        self.type = pa.struct([(f"member{number}", kind.type) for number, kind in enumerate(kinds)])

    def _chosen(self, page: _Page, at: Numbers) -> tuple[Numbers, Numbers]:
        chosen, after = page.varints(at)
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(self._kinds):
            raise Torn("a branch that there is not")
        return chosen, after

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        chosen, after = self._chosen(page, at)
        for number, kind in enumerate(self._kinds):
            some = chosen == number
            after[some] = kind.skip(page, after[some])
        return after

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        chosen, after = self._chosen(page, at)
        members = []
        for number, kind in enumerate(self._kinds):
            some = chosen == number
            member = pa.nulls(len(at), kind.type)
            if some.any():
                found, after[some] = kind.read(page, after[some])
                member = _spread(found, some)
            members.append(member)
        return pa.StructArray.from_arrays(members, fields=list(self.type)), after


class _Struct:
    def __init__(self, names: Sequence[str], kinds: Sequence[_Kind]) -> None:
        self._names, self._kinds = names, kinds
        self.type = pa.struct([(name, kind.type) for name, kind in zip(names, kinds, strict=True)])

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        for kind in self._kinds:
            at = kind.skip(page, at)
        return at

    def columns(self, page: _Page, at: Numbers) -> tuple[list[pa.Array], Numbers]:
        arrays = []
        for kind in self._kinds:
            array, at = kind.read(page, at)
            arrays.append(array)
        return arrays, at

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        arrays, at = self.columns(page, at)
        return pa.StructArray.from_arrays(arrays, fields=list(self.type)), at


class _List:
    """Arrays and maps, which are blocks of items."""

    def __init__(self, items: _Kind) -> None:
        self.items, self.type = items, pa.list_(items.type)

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        after = at.copy()
        counts = self.block(page, after, np.arange(len(at)))
        fewest = counts.min(initial=page.longest)
        for item in range(counts.max(initial=0)):
            if item < fewest:
                after = self.items.skip(page, after)
            else:
                some = counts > item
                after[some] = self.items.skip(page, after[some])
        if self.block(page, after, counts.nonzero()[0]).any():  # a second block: that is seldom
            return self._items_of(page, at)[2]
        return after

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        rows, starts, after = self._items_of(page, at)
        offsets = np.zeros(len(at) + 1, np.int32)
        np.cumsum(np.bincount(rows, minlength=len(at)), out=offsets[1:])
        # Rows lie one behind the other, and so do their items.
        items, _ = self.items.read(page, np.sort(starts))
        return pa.ListArray.from_arrays(pa.array(offsets), items), after

    def _items_of(self, page: _Page, at: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Rows of the items, where these start (in no order), and the places after the lists."""
        at, going = at.copy(), np.arange(len(at))
        rows, starts = [going[:0]], [at[:0]]
        while len(going):
            left = self.block(page, at, going)
            going = going[left > 0]
            left, some = left[left > 0], going
            while len(some):
                here = at[some]
                rows.append(some)
                starts.append(here)
                at[some] = self.items.skip(page, here)
                left = left - 1
                if not left.all():
                    some, left = some[left > 0], left[left > 0]
        return np.concatenate(rows), np.concatenate(starts), at

    def block(self, page: _Page, at: Numbers, going: Numbers) -> Numbers:
        """How many items each next block has; a negative count is followed by the block's size."""
        counts, after = page.small(at[going])
        if len(counts) and counts.min() < 0:
            sized = counts < 0
            _, after[sized] = page.varints(after[sized])
            counts = np.abs(counts)
        if counts.max(initial=0) > page.longest:
            raise Torn("more items than there are bytes")
        at[going] = after
        return counts


class _Head:
    """The first item of an array; null where there is none."""

    def __init__(self, items: _List) -> None:
        self._list, self.type = items, items.items.type

    def skip(self, page: _Page, at: Numbers) -> Numbers:
        return self._list.skip(page, at)

    def read(self, page: _Page, at: Numbers) -> tuple[pa.Array, Numbers]:
        first = at.copy()
        there = self._list.block(page, first, np.arange(len(at))) > 0
        array, _ = self._list.items.read(page, first[there])
        return array if there.all() else _spread(array, there), self.skip(page, at)


_PRIMITIVES: dict[str, Callable[[], _Kind]] = {
    "boolean": _Boolean,
    "bytes": lambda: _Bytes(pa.binary()),
    "double": _Double,
    "float": _Float,
    "int": lambda: _Long(pa.int32()),
    "long": lambda: _Long(pa.int64()),
    "null": _Null,
}


def _record(schema: Schema, *, heads: bool = False) -> _Struct:
    named: dict[str, _Kind] = {}
    fields = schema["fields"]
    kinds = [_kind(field["type"], NAMES if _few(field["name"]) else TEXT, named) for field in fields]
    if heads:
        kinds = [_Head(kind) if isinstance(kind, _List) else kind for kind in kinds]
    return _Struct([field["name"] for field in fields], kinds)


def _few(name: str) -> bool:
    """Whether a text field says the same again and again."""
    return not name.endswith("_id") and name not in ("connection", "detail")


def _kind(schema: Any, text: pa.DataType, named: dict[str, _Kind]) -> _Kind:
    if isinstance(schema, list):
        return _optional(schema, text, named)
    if isinstance(schema, str):
        return _plain(schema, text, named)
    match schema["type"]:
        case "record":
            fields = schema["fields"]
            kinds = [_kind(field["type"], TEXT, named) for field in fields]
            made: _Kind = _Struct([field["name"] for field in fields], kinds)
        case "array":
            return _List(_kind(schema["items"], TEXT, named))
        case "map":
            return _List(_Struct(["key", "value"], [_Bytes(TEXT), _kind(schema["values"], TEXT, named)]))
        case "enum":
            made = _Enum(schema["symbols"], text)
        case "fixed":
            made = _Fixed(schema["size"])
        case plain:
            return _logical(schema) or _kind(plain, text, named)
    named[schema["name"]] = made
    return made


def _logical(schema: Schema) -> _Kind | None:
    name = schema.get("logicalType")
    if name == "decimal" and schema["precision"] <= PRECISION:
        return _Decimal(schema.get("scale", 0))
    return _Long(TIME) if name == "timestamp-micros" else None


def _plain(name: str, text: pa.DataType, named: dict[str, _Kind]) -> _Kind:
    if name == "string":
        return _Bytes(text)
    name = name.rpartition(".")[2]
    if name in named:
        return named[name]
    if name not in _PRIMITIVES:
        raise Torn(f"there is no column for Avro's {name}")
    return _PRIMITIVES[name]()


def _optional(union: Sequence[Any], text: pa.DataType, named: dict[str, _Kind]) -> _Kind:
    if len(union) != 2 or "null" not in union:
        return _Union([_kind(one, TEXT, named) for one in union])
    null_first = union[0] == "null"
    return _Optional(_kind(union[1 if null_first else 0], text, named), null_first)
