"""One run of one contestant: `python -m benchmarks.rivals NAME BOOTSTRAP TRADES` prints its result as JSON.

All read the same topic from its start, decode and encode with `ravencore` in the same way, fold with the same folds in
all default profiles, and publish every output. The clock runs from the first record a contestant is given until the
last output is acknowledged (the engine: until the last transaction is committed). Only the engine keeps its state in
Kafka and publishes exactly once; the others hold state in memory, which is less work, and commit offsets as they do at
their best.
"""

import asyncio
import json
import resource
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Producer

from processors.contract import Output
from processors.engine import Engine
from processors.intake import Fetched, Instruments
from processors.registry import FOLDS
from processors.symbol import Symbol
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings
from ravencore.records import market_key
from ravencore.topics import TRADES
from ravencore.writer import Writer

OUTPUTS = tuple(kind.topic for kind in FOLDS)


class Stopwatch:
    """Clock, CPU and the CPU spent in decoding and folding, from the first record to the last."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen, self.inside = wanted, 0, 0.0
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        """At the first record; later calls do nothing."""
        if self._began is None:
            self._began = time.perf_counter(), cpu()

    def inner(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same work, its CPU counted as decoding and folding."""

        def measured(*args: Any) -> Any:
            began = time.thread_time()
            try:
                return work(*args)
            finally:
                self.inside += time.thread_time() - began

        return measured

    def result(self) -> dict[str, float]:
        """After the last record."""
        assert self._began is not None
        return {
            "trades": self.seen,
            "seconds": time.perf_counter() - self._began[0],
            "cpu_seconds": cpu() - self._began[1],
            "inside_seconds": self.inside,
        }


def cpu() -> float:
    """CPU seconds of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class OneByOne:
    """The folds for who is given one message at a time."""

    def __init__(self, codec: Codec, settings: Settings) -> None:
        self._codec, self._settings = codec, settings
        self._symbols: dict[bytes, Symbol] = {}

    def __call__(self, key: bytes, value: bytes, offset: int) -> list[Output]:
        rows = self._codec.decode_trades([value])
        assert rows is not None
        if key not in self._symbols:
            venue, _, name = key.decode().partition(":")
            self._symbols[key] = Symbol(venue, name, self._settings.bars)
        return self._symbols[key].apply(rows, [offset]).outputs


def publish(producer: Producer, writer: Writer, outputs: Sequence[Output]) -> None:
    """Hand outputs to librdkafka."""
    for output in outputs:
        producer.produce(output.topic, writer.encode(output.record), market_key(output.record))
    producer.poll(0)


def engine(settings: Settings, codec: Codec, watch: Stopwatch) -> None:
    """Raven's engine, as `python -m processors` runs it."""

    class Measured(Engine):
        async def _accept(self, batch: Sequence[Fetched]) -> None:
            watch.start()
            await super()._accept(batch)

        def committed(self, counts: Counter[str], seconds: float) -> None:
            super().committed(counts, seconds)
            watch.seen += counts["records"]
            if watch.seen >= watch.wanted:
                print(json.dumps(watch.result()), flush=True)
                self._ending.set()

    Instruments.apply = watch.inner(Instruments.apply)  # type: ignore[method-assign]

    async def run() -> int:
        return await Measured(settings).run()

    asyncio.run(run())


def bare(settings: Settings, codec: Codec, watch: Stopwatch) -> None:
    """aiokafka's getmany in a loop, batches to the same folds, librdkafka out; offsets committed once a second."""

    async def run() -> None:
        instruments: dict[int, Instruments] = {}
        producer, writer = kafka.producer(settings.kafka), Writer(codec)
        consumer = AIOKafkaConsumer(
            TRADES,
            bootstrap_servers=settings.kafka.bootstrap,
            group_id=f"bare-{uuid.uuid4()}",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            max_partition_fetch_bytes=4 * 1024**2,
        )
        await consumer.start()
        committed = time.monotonic()
        while watch.seen < watch.wanted:
            for place, records in (await consumer.getmany(timeout_ms=100, max_records=5000)).items():
                watch.start()
                if place.partition not in instruments:
                    instruments[place.partition] = Instruments(codec, settings.bars, kafka.CLOCK_HEADER)
                made = watch.inner(instruments[place.partition].apply)(records)
                publish(producer, writer, made.outputs)
                watch.seen += len(records)
            if time.monotonic() - committed > 1:
                producer.flush()
                await consumer.commit()
                committed = time.monotonic()
        producer.flush()
        await consumer.commit()
        print(json.dumps(watch.result()), flush=True)
        await consumer.stop()

    asyncio.run(run())


def naive(settings: Settings, codec: Codec, watch: Stopwatch) -> None:
    """A Faust agent as its manual writes it, one message an event, outputs by `topic.send`.

    At its best: Cython extensions, raw serializers, the buffer of its manual's hint, no web server, 5,000 records a
    poll, offsets committed by Faust every 2.8 s.
    """
    fold, writer = watch.inner(OneByOne(codec, settings)), Writer(codec)

    async def run() -> None:
        done = asyncio.Event()
        with tempfile.TemporaryDirectory() as folder:
            app = faust.App(
                f"naive-{uuid.uuid4()}",
                broker=f"kafka://{settings.kafka.bootstrap}",
                datadir=Path(folder),
                store="memory://",
                web_enabled=False,
                topic_disable_leader=True,
                topic_allow_declare=False,
                consumer_auto_offset_reset="earliest",
                broker_max_poll_records=5000,
                stream_buffer_maxsize=131_072,
                stream_wait_empty=False,
                producer_linger=0.005,
                producer_compression_type="lz4",
                cython_optimizations=True,
            )
            raw = {"key_serializer": "raw", "value_serializer": "raw"}
            outputs = {name: app.topic(name, **raw) for name in OUTPUTS}

            async def agent(stream: Any) -> None:
                async for event in stream.events():
                    watch.start()
                    for output in fold(event.key, event.value, event.message.offset):
                        await outputs[output.topic].send(
                            key=market_key(output.record), value=writer.encode(output.record)
                        )
                    watch.seen += 1
                    if watch.seen == watch.wanted:
                        await app.producer.flush()
                        print(json.dumps(watch.result()), flush=True)
                        done.set()

            app.agent(app.topic(TRADES, value_type=bytes, **raw), name="naive-trades")(agent)
            app.finalize()
            await app.start()
            await done.wait()

    asyncio.run(run())


def quixstreams(settings: Settings, codec: Codec, watch: Stopwatch) -> None:
    """A StreamingDataFrame over bytes; the folds in `update`, outputs straight to librdkafka, a checkpoint every 5 s.

    At its best: its own producer and `to_topic` would cost a function call and a serializer more per output.
    """
    from quixstreams import Application  # noqa: PLC0415 - only the benchmark's environment has it

    fold, writer = watch.inner(OneByOne(codec, settings)), Writer(codec)
    producer = kafka.producer(settings.kafka)
    app = Application(
        broker_address=settings.kafka.bootstrap,
        consumer_group=f"quix-{uuid.uuid4()}",
        auto_offset_reset="earliest",
        auto_create_topics=False,
        use_changelog_topics=False,
        loglevel="WARNING",
        consumer_extra_config={"fetch.wait.max.ms": 20},
    )

    def handle(value: bytes, key: bytes, timestamp: int, headers: Any) -> None:
        watch.start()
        publish(producer, writer, fold(key, value, watch.seen))
        watch.seen += 1
        if watch.seen == watch.wanted:
            producer.flush()
            print(json.dumps(watch.result()), flush=True)
            app.stop()

    source = app.topic(TRADES, value_deserializer="bytes", key_deserializer="bytes")
    app.dataframe(source).update(handle, metadata=True)
    app.run()


CONTESTANTS = {"engine": engine, "bare": bare, "quixstreams": quixstreams, "naive": naive}


def main() -> None:
    """Run the contestant that the command line names."""
    name, bootstrap, wanted = sys.argv[1:]
    settings = Settings(kafka=KafkaSettings(bootstrap=bootstrap))
    CONTESTANTS[name](settings, Codec(), Stopwatch(int(wanted)))


if __name__ == "__main__":
    main()
