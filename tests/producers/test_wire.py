"""The collector's fast encoders against the codec."""

from hypothesis import given
from hypothesis import strategies as st

from producers.wire import Wire
from ravencore.codec import Codec
from ravencore.decimals import LIMIT
from ravencore.records import Book, Level, Trade

CODEC = Codec()
WIRE = Wire(CODEC)

longs = st.integers(-(2**63), 2**63 - 1)
decimals = st.integers(-LIMIT + 1, LIMIT - 1)
levels = st.lists(st.builds(Level, price=decimals, quantity=decimals), max_size=20).map(tuple)
trades = st.builds(
    Trade,
    venue=st.text(max_size=100),
    symbol=st.text(max_size=100),
    event_time=longs,
    received_time=longs,
    trade_id=st.text(max_size=200),
    sequence=st.none() | longs,
    price=decimals,
    quantity=decimals,
)
books = st.builds(
    Book,
    venue=st.text(max_size=100),
    symbol=st.text(max_size=100),
    event_time=st.none() | longs,
    received_time=longs,
    update_id=st.none() | st.text(max_size=200),
    sequence=st.none() | longs,
    bids=levels,
    asks=levels,
)


@given(trades)
def test_a_trade_is_written_as_the_codec_writes_it(trade: Trade) -> None:
    assert WIRE.trade(trade) == CODEC.encode(trade)


@given(books)
def test_a_book_is_written_as_the_codec_writes_it(book: Book) -> None:
    assert WIRE.book(book) == CODEC.encode(book)
