"""Raven's settings, typed and checked as a whole.

Lowest first: the defaults below; the file `RAVEN_CONFIG_FILE`, else `./{RUN_MODE}.toml`, else
`~/.config/raven/{RUN_MODE}.toml` (RUN_MODE is an environment variable, `dev` where it is unset); `./local.toml`;
environment variables `RAVEN_*` with `__` between levels, for example `RAVEN_KAFKA__BOOTSTRAP=host:9092`. A key or a
variable that is none of Raven's is an error.
"""

import difflib
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ravencore.addresses import check_dsn, check_url
from ravencore.errors import ConfigError

PREFIX = "RAVEN_"
OTHER_VARIABLES = (
    *("RAVEN_CONFIG_FILE", "RAVEN_HOME", "RAVEN_READY_FILE", "RAVEN_SIMULATOR_URL", "RAVEN_VERSION"),
    *("RAVEN_RECORDINGS", "RAVEN_NO_SKIPS", "RAVEN_TESTS_POSTGRES", "RAVEN_TESTS_S3"),
)
"""Environment variables that mean something to Raven, its compose file or its tests, and are no settings."""
JSON_EXAMPLES = {
    "list_type": '["KRAKEN", "COINBASE"]',
    "dict_type": '{"name": "value"}',
    "model_type": '{"setting": "value"}',
}
"""What is written in an environment variable, by the error that pydantic has for another value."""
UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}


def _http(text: str) -> str:
    if text:
        check_url(text, ("http", "https"), "http://host:8080")
    return text


def _redis(secret: SecretStr) -> SecretStr:
    example = "redis://user:password@host:6379/0"
    check_url(secret.get_secret_value(), ("redis", "rediss", "unix"), example)
    return secret


def _dsn(secret: SecretStr) -> SecretStr:
    check_dsn(secret.get_secret_value())
    return secret


HttpUrl = Annotated[str, AfterValidator(_http)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis)]
Dsn = Annotated[SecretStr, AfterValidator(_dsn)]


class Section(BaseModel):
    """A table of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    """The broker and how topics are created."""

    bootstrap: str = Field("localhost:9092", description="Broker to start from, host:port.")
    partitions: int = Field(6, ge=1, description="Partitions of market-data topics when they are created.")
    replication: int = Field(1, ge=1, description="Replicas of each topic when it is created.")


class SchemaRegistrySettings(Section):
    """A Confluent-compatible schema registry; without a URL the pinned ids are used."""

    url: HttpUrl | None = Field(None, description="For example http://localhost:8081; unset: the pinned ids.")


class BinanceSpotSettings(Section):
    """Binance spot's public market-data endpoints; like all of these they need no key."""

    ws_url: str = Field("wss://data-stream.binance.vision", description="Its WebSocket endpoint.")
    rest_url: str = Field("https://data-api.binance.vision", description="Its REST endpoint.")
    other_ws_urls: list[str] = Field(
        ["wss://stream.binance.com:9443"], description="Where to turn when a feed stays silent at ws_url."
    )
    maintained_books: list[str] = Field(
        [], description="Symbols whose books are kept from differences, not taken as printed; `*`: all."
    )


class BinanceFuturesSettings(Section):
    """Binance USD-M futures."""

    ws_url: str = Field("wss://fstream.binance.com", description="Its WebSocket endpoint, without /public or /market.")
    rest_url: str = Field("https://fapi.binance.com", description="Its REST endpoint.")
    open_interest_symbols: list[str] = Field(
        ["BTCUSDT", "ETHUSDT", "SOLUSDT"], description="Symbols whose open interest is polled."
    )
    other_ws_urls: list[str] = Field([], description="Where to turn when a feed stays silent at ws_url.")
    maintained_books: list[str] = Field(
        [], description="Symbols whose books are kept from differences, not taken as printed; `*`: all."
    )


class BinanceOptionsSettings(Section):
    """Binance's European options, which are polled."""

    rest_url: str = Field("https://eapi.binance.com", description="Its REST endpoint.")
    underlyings: list[str] = Field(["BTC"], description="Currencies whose options are collected.")


class DeribitSettings(Section):
    """Deribit."""

    ws_url: str = Field("wss://www.deribit.com/ws/api/v2", description="Its WebSocket endpoint.")
    rest_url: str = Field("https://www.deribit.com/api/v2", description="Its REST endpoint.")
    currencies: list[str] = Field(["BTC"], description="Currencies whose options, trades and indices are collected.")
    other_ws_urls: list[str] = Field([], description="Where to turn when a feed stays silent at ws_url.")


class KrakenSettings(Section):
    """Kraken spot."""

    ws_url: str = Field("wss://ws.kraken.com/v2", description="Its WebSocket endpoint, version 2.")
    rest_url: str = Field("https://api.kraken.com", description="Its REST endpoint.")
    other_ws_urls: list[str] = Field([], description="Where to turn when a feed stays silent at ws_url.")


class CoinbaseSettings(Section):
    """Coinbase Advanced Trade."""

    ws_url: str = Field("wss://advanced-trade-ws.coinbase.com", description="Its WebSocket endpoint.")
    rest_url: str = Field("https://api.coinbase.com", description="Its REST endpoint.")
    other_ws_urls: list[str] = Field([], description="Where to turn when a feed stays silent at ws_url.")


class VenuesSettings(Section):
    """Endpoints by venue, and what is collected of those that are collected as a whole."""

    BINANCE_SPOT: BinanceSpotSettings = BinanceSpotSettings()
    BINANCE_FUTURES: BinanceFuturesSettings = BinanceFuturesSettings()
    BINANCE_OPTIONS: BinanceOptionsSettings = BinanceOptionsSettings()
    DERIBIT: DeribitSettings = DeribitSettings()
    KRAKEN: KrakenSettings = KrakenSettings()
    COINBASE: CoinbaseSettings = CoinbaseSettings()


class RoutingSettings(Section):
    """Which venues a demand means, and how an instrument is called where."""

    venues: list[str] = Field(
        ["BINANCE_SPOT", "BINANCE_FUTURES", "BINANCE_OPTIONS", "DERIBIT", "KRAKEN", "COINBASE"],
        description="Venues, single sources of them, or VENUE:CHANNEL, that a demand means which names none.",
    )
    symbols: list[str] = Field(
        ["BTC/USDT", "ETH/USDT"], description="Instruments that a start means which names none, beside whole markets."
    )
    symbol_map: dict[str, dict[str, str]] = Field(
        {
            "BINANCE_FUTURES": {
                "PEPE/USDT": "1000PEPEUSDT",
                "SHIB/USDT": "1000SHIBUSDT",
                "BONK/USDT": "1000BONKUSDT",
                "FLOKI/USDT": "1000FLOKIUSDT",
                "LUNC/USDT": "1000LUNCUSDT",
                "XEC/USDT": "1000XECUSDT",
            }
        },
        description="By venue, the symbol of an instrument that the venue does not call by its currencies.",
    )


class CollectorSettings(Section):
    """How frames become records."""

    reorder_ms: int = Field(500, ge=0, description="How long a hole in the ids is waited for before it is a Gap.")
    repair_ms: int = Field(
        2_000, ge=0, description="How long a hole then holds trades back, to be filled over REST, before they go on."
    )
    book_interval_ms: int = Field(100, ge=0, description="Shortest time between two tops of a book that Raven keeps.")
    connection_life_s: float = Field(
        85_500.0, gt=0, description="Age at which a connection is replaced; venues end them after 24 hours."
    )
    failures_allowed: int = Field(
        50, ge=1, description="Failures in a row after which a connection is given up until it is demanded again."
    )
    clocks: bool = Field(True, description="Write Clocks in quiet times; off when a recording is replayed off pace.")


class DrivenBarProfile(Section):
    """Parameters of dollar-imbalance, volume-run and dollar-run bars (bars.md section 3)."""

    rule: Literal["guarded"] = Field("guarded", description="Which definition; of these bars there is one.")
    initial_size: int = Field(100, ge=2, description="Ticks N of the warm-up bar, and the first E[T].")
    alpha_size: float = Field(0.1, gt=0, le=1, description="Weight aT of the newest bar in E[T].")
    alpha_imbl: float = Field(0.1, gt=0, le=1, description="Weight aX of the newest bar in what else is expected.")
    size_min_pct: float = Field(0.1, ge=0, lt=1, description="E[T] stays above N*(1 - this).")
    size_max_pct: float = Field(0.1, ge=0, description="E[T] stays below N*(1 + this).")


class RuledBarProfile(DrivenBarProfile):
    """Parameters of tick-imbalance, tick-run and volume-imbalance bars, which the Rust Raven has as well."""

    rule: Literal["guarded", "raven"] = Field(  # type: ignore[assignment] # one more rule than those above have
        "guarded", description="Which definition: the book's, kept stable, or the Rust Raven's."
    )
    initial_p_buy: float = Field(0.7, ge=0, le=1, description="Share of buys to begin with, rule `raven` only.")


class PlainBarProfile(Section):
    """Size of tick, volume and dollar bars."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    size: str = Field(description="Ticks, base quantity or quote notional after which a bar closes.")


def _small_and_large(kind: str, small: int, large: int) -> dict[str, RuledBarProfile]:
    sizes = {"small": small, "large": large}
    return {f"{kind}_{name}": RuledBarProfile(initial_size=size) for name, size in sizes.items()}


Instrument = Annotated[str, StringConstraints(pattern=r"^[A-Z_]+:\S")]
"""VENUE:SYMBOL, or VENUE:PAIR."""


class VpinSettings(Section):
    """Parameters of VPIN (bars.md section 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    bucket_volume: str = Field("10000", description="Volume V of a bucket where a symbol has none of its own.")
    bucket_volumes: dict[Instrument, str] = Field(
        {}, description="V by VENUE:SYMBOL; aim at a fiftieth of the daily volume."
    )
    profile: str = Field("default", min_length=1, description="Name of its profile where a symbol has none of its own.")
    profiles: dict[Instrument, Annotated[str, Field(min_length=1)]] = Field(
        {},
        description="Name of its profile by VENUE:SYMBOL: a new one where V changes, so that its buckets begin anew.",
    )
    unit: Literal["quote", "base"] = Field("quote", description="What V counts: quote notional or base quantity.")
    window: int = Field(50, ge=1, description="Buckets n that VPIN averages over.")
    sigma_window: int = Field(20, ge=1, description="Price changes that sigma is taken over.")
    sigma_floor: float = Field(1e-12, gt=0, description="Least sigma, in quote currency.")
    percentile_window: int = Field(
        250, ge=1, description="Values of VPIN that the percentile of the newest is taken among; 50 are about a day."
    )


class BarsSettings(Section):
    """What the engine makes of trades."""

    time_intervals: list[str] = Field(["1s", "1m"], description="Intervals of time bars, like 500ms, 1s, 15m, 1h.")
    allowed_lateness_ms: int = Field(0, ge=0, description="How long past its end a window waits for trades.")
    empty_windows: Literal["skip", "flat"] = Field(
        "skip",
        description="Windows without trades: no bar, or a flat one at the previous close (at most 100,000 in a row).",
    )
    tib: dict[str, RuledBarProfile] = Field(
        _small_and_large("tib", 100, 500), description="Tick-imbalance profiles by name."
    )
    trb: dict[str, RuledBarProfile] = Field(_small_and_large("trb", 100, 500), description="Tick-run profiles by name.")
    vib: dict[str, RuledBarProfile] = Field(
        _small_and_large("vib", 100, 250), description="Volume-imbalance profiles by name."
    )
    dib: dict[str, DrivenBarProfile] = Field({}, description="Dollar-imbalance profiles by name.")
    vrb: dict[str, DrivenBarProfile] = Field({}, description="Volume-run profiles by name.")
    drb: dict[str, DrivenBarProfile] = Field({}, description="Dollar-run profiles by name.")
    tick: dict[str, PlainBarProfile] = Field({}, description="Profiles of bars of a number of ticks, by name.")
    volume: dict[str, PlainBarProfile] = Field({}, description="Profiles of bars of a base quantity, by name.")
    dollar: dict[str, PlainBarProfile] = Field({}, description="Profiles of bars of a quote notional, by name.")
    vpin: VpinSettings = VpinSettings()


class MidsSettings(Section):
    """Parameters of the consolidated spot mid (bars.md section 5)."""

    venues: list[str] = Field(
        ["BINANCE_SPOT", "COINBASE", "KRAKEN"],
        description="Venues whose quotes count; those of others are passed over.",
    )
    expected: dict[str, list[str]] = Field(
        {}, description="By pair like BTC-USD, the venues that must be there for quality Ok; others: all that count."
    )
    stale_after_ms: int = Field(3_000, ge=1, description="Age beyond which a venue's quote is not used.")
    divergence_limit: float = Field(
        0.002, gt=0, description="(max - min) / median of the venues' mids beyond which quality is Suspect."
    )


class SurfacesSettings(Section):
    """Which options a surface of implied volatility is made of (bars.md section 6)."""

    stale_after_s: float = Field(60.0, gt=0, description="Age beyond which an option's ticker is not used.")
    max_relative_spread: float = Field(0.5, gt=0, description="Largest (ask - bid) / mid of an option that is used.")
    min_open_interest: float = Field(
        0.0, ge=0, description="Least open interest of an option that is used, where the venue tells it."
    )


class EngineSettings(Section):
    """How the Faust worker fetches and commits."""

    max_poll_records: int = Field(5000, ge=1, le=10_000, description="Most records of one batch, 10,000 at most.")
    fetch_wait_ms: int = Field(20, ge=1, description="How long the broker may hold a fetch that is not full.")
    stall_s: float = Field(60.0, gt=0, description="A worker that commits nothing this long while it has lag ends.")


class InfluxSettings(Section):
    """InfluxDB 2, or QuestDB which takes the same writes."""

    url: HttpUrl = Field("http://localhost:8086", description="Server that takes line protocol on /api/v2/write.")
    token: SecretStr = Field(SecretStr(""), description="API token; QuestDB needs none.")
    org: str = Field("raven", description="Organisation.")
    bucket: str = Field("raven", min_length=1, description="Bucket that is written to.")
    retention_days: int = Field(
        30, ge=0, description="Days it keeps points, when it is created; older ones are refused. 0: for ever."
    )
    minute_bucket: str = Field("raven_1m", description="Bucket of trades and quotes by the minute; empty: none.")
    minute_retention_days: int = Field(0, ge=0, description="Days that one keeps points, when it is created.")
    flavour: Literal["influxdb", "questdb"] = Field("influxdb", description="Which server it is.")


class RetentionSettings(Section):
    """How old rows of the mart grow before TimescaleDB drops their chunk; candles made of them stay."""

    bars: str | None = Field(None, description="Age at which bars are dropped, like 90d; unset: they are kept.")
    vpin: str | None = Field(None, description="The same of VPIN buckets.")
    klines: str | None = Field(None, description="The same of klines.")
    spot_mids: str | None = Field(None, description="The same of consolidated mids, a row a second and pair.")
    iv_surfaces: str | None = Field(None, description="The same of surfaces of implied volatility.")


class MartSettings(Section):
    """PostgreSQL, with TimescaleDB where it is available."""

    dsn: Dsn = Field(
        SecretStr("postgresql://raven:raven@localhost:5432/raven"), description="Connection string of PostgreSQL."
    )
    instrument_wait_s: float = Field(30.0, ge=0, description="How long a record waits for its instrument.")
    compress_after: str | None = Field(
        "7d", description="Age at which TimescaleDB compresses a chunk of facts; unset in a file of settings: never."
    )
    retention: RetentionSettings = RetentionSettings()


class RedisSettings(Section):
    """Redis, or Valkey: a cache of the newest values."""

    url: RedisUrl = Field(
        SecretStr("redis://localhost:6379/0"), description="Its address, redis://user:password@host:port/database."
    )
    ttl_s: int = Field(172_800, ge=1, description="How long a key lives that nothing new is written to.")
    window: int = Field(3_600, ge=1, description="Mids of a pair that its window holds, one a second.")
    tail_records: int = Field(
        20_000, ge=1, description="Records of a partition that are read after an outage; older ones are passed over."
    )


class LakeSettings(Section):
    """The Parquet lake, on a local disk or in an object store."""

    uri: str = Field("data", description="The lake's folder, or where an object store has it: s3://bucket/raven.")
    batch_s: float = Field(60.0, gt=0, description="How long records are gathered before they become files.")
    batch_records: int = Field(100_000, ge=1, description="How many records are gathered at most.")
    batch_bytes: int = Field(1 << 26, ge=1, le=1 << 30, description="How many bytes of records are gathered at most.")


class ServiceSettings(Section):
    """Who this process is in `raven.status`."""

    name: str = Field("", description="Service name; unset: what it is.")
    instance: str = Field("", description="Instance name; unset: service, host and process id.")
    metrics_port: int | None = Field(
        None, ge=1, le=65_535, description="Port of the Prometheus page; none where unset."
    )


class Settings(BaseSettings):
    """All of Raven's settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True)

    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    venues: VenuesSettings = VenuesSettings()
    routing: RoutingSettings = RoutingSettings()
    collector: CollectorSettings = CollectorSettings()
    bars: BarsSettings = BarsSettings()
    mids: MidsSettings = MidsSettings()
    surfaces: SurfacesSettings = SurfacesSettings()
    engine: EngineSettings = EngineSettings()
    influx: InfluxSettings = InfluxSettings()
    mart: MartSettings = MartSettings()
    redis: RedisSettings = RedisSettings()
    lake: LakeSettings = LakeSettings()
    service: ServiceSettings = ServiceSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over local.toml over the chosen file over the defaults."""
        files = [TomlConfigSettingsSource(settings_cls, path) for path in config_files()]
        return (init_settings, _Environment(settings_cls), *files)


class _Environment(EnvSettingsSource):
    """Variables as they are: pydantic's own source stops at the first that is no JSON, and does not name it."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """What a variable of a list or a map holds; its text where that is no JSON, for validation to find."""
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def config_files() -> list[Path]:
    """The files that are read, highest first; raises ConfigError when RAVEN_CONFIG_FILE names none."""
    named = os.environ.get("RAVEN_CONFIG_FILE")
    if named and not Path(named).is_file():
        raise ConfigError(f"RAVEN_CONFIG_FILE names {named}, which is no file: correct it or unset it")
    mode = f"{os.environ.get('RUN_MODE', 'dev')}.toml"
    candidates = [Path(named)] if named else [Path(mode), Path.home() / ".config" / "raven" / mode]
    chosen = [path for path in candidates if path.is_file()][:1]
    return [path for path in (Path("local.toml"),) if path.is_file()] + chosen


def interval_us(text: str) -> int:
    """Microseconds of an interval such as `500ms`, `1s`, `15m`, `1h` or `1d`; raises ConfigError."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})(ms|s|m|h|d)", text, re.ASCII)
    if match is None:
        raise ConfigError(f"bars.time_intervals: {text!r} is no interval; write for example 500ms, 1s, 15m or 1h")
    return int(match[1]) * UNITS_US[match[2]]


def load() -> Settings:
    """The settings as resolved now; raises ConfigError naming each wrong key and the nearest right one."""
    wrong = _unknown_variables()
    try:
        settings = Settings()
    except ValidationError as error:
        wrong += [_explain(item) for item in error.errors()]
    except ValueError as error:
        wrong.append(f"{_torn_file()} is no TOML: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings


def _torn_file() -> str:
    """The first of the files that cannot be read."""
    for path in config_files():
        try:
            TomlConfigSettingsSource(Settings, path)
        except ValueError:
            return str(path.absolute())
    return "a file of settings"


def instance_name(settings: Settings, service: str) -> str:
    """This process's name in `raven.status`: as configured, else service, host and process id."""
    return settings.service.instance or f"{service}-{socket.gethostname()}-{os.getpid()}"


def _unknown_variables() -> list[str]:
    """Of each environment variable that pydantic would pass over, what is wrong with it."""
    names = [name.upper() for name in os.environ if name.upper().startswith(PREFIX)]
    sections = [f"{PREFIX}{name}".upper() for name in Settings.model_fields]
    known = [*OTHER_VARIABLES, *map(variable, paths(Settings))]
    return [
        f"environment variable {name} is none of Raven's{did_you_mean(name, known)}"
        for name in sorted(names)
        if name.partition("__")[0] not in sections and name not in OTHER_VARIABLES
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`: did you mean ...?` with the nearest of the known names; nothing where none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {near[0]}?" if near else ""


def _explain(item: Any) -> str:
    path = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        said = item["msg"].removeprefix("Value error, ")
        set_here = any(name.upper() == variable(path) for name in os.environ)
        example = JSON_EXAMPLES.get(item["type"]) if set_here else None
        return f"setting {path}: {said}" + (f": write {variable(path)} as JSON, like {example}" if example else "")
    return f"setting {path} is unknown{did_you_mean(path, paths(Settings))}"


def variable(path: str) -> str:
    """The environment variable of a setting, or section, by its dotted name."""
    return f"{PREFIX}{path.replace('.', '__')}".upper()


def paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All settings and their sections, dotted; `*` stands for a name that the configuration chooses."""
    found = []
    for name, info in model.model_fields.items():
        found.append(prefix + name)
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += paths(kind, f"{prefix}{name}." if kind is info.annotation else f"{prefix}{name}.*.")
    return found
