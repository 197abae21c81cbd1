-- The mart's dimensions and facts. Times are timestamptz in microseconds, prices and quantities exact.

CREATE TABLE mart.dim__coin (
    coin_id      integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name <> ''),
    is_deleted   boolean NOT NULL DEFAULT false,
    deleted_date timestamptz
);
COMMENT ON TABLE mart.dim__coin IS 'Base currencies, for example BTC.';

CREATE TABLE mart.dim__quote (
    quote_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name <> ''),
    is_deleted   boolean NOT NULL DEFAULT false,
    deleted_date timestamptz
);
COMMENT ON TABLE mart.dim__quote IS 'Quote currencies, for example USDT.';

CREATE TABLE mart.dim__exchange (
    exchange_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name <> ''),
    is_deleted   boolean NOT NULL DEFAULT false,
    deleted_date timestamptz
);
COMMENT ON TABLE mart.dim__exchange IS 'Venues, for example BINANCE_SPOT.';

CREATE TABLE mart.dim__interval (
    interval_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name <> ''),
    is_deleted   boolean NOT NULL DEFAULT false,
    deleted_date timestamptz
);
COMMENT ON TABLE mart.dim__interval IS
    'Intervals of time bars, for example 1m; none stands for bars that trades close, not the clock.';
INSERT INTO mart.dim__interval (name) VALUES ('none'), ('1s'), ('1m');

CREATE TABLE mart.dim__instrument (
    instrument_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange_id   integer NOT NULL REFERENCES mart.dim__exchange,
    symbol        text NOT NULL CHECK (symbol <> ''),
    coin_id       integer NOT NULL REFERENCES mart.dim__coin,
    quote_id      integer NOT NULL REFERENCES mart.dim__quote,
    UNIQUE (exchange_id, symbol)
);
COMMENT ON TABLE mart.dim__instrument IS
    'What a venue''s symbol is. A perpetual and a future may share venue, coin and quote: this tells them apart.';

CREATE TABLE mart.fact__time_bar (
    instrument_id  integer NOT NULL REFERENCES mart.dim__instrument,
    coin_id        integer NOT NULL REFERENCES mart.dim__coin,
    quote_id       integer NOT NULL REFERENCES mart.dim__quote,
    exchange_id    integer NOT NULL REFERENCES mart.dim__exchange,
    interval_id    integer NOT NULL REFERENCES mart.dim__interval,
    kind           text NOT NULL CHECK (kind = 'time'),
    profile        text NOT NULL,
    bar_seq        bigint NOT NULL,
    open_time      timestamptz NOT NULL,
    close_time     timestamptz NOT NULL,
    first_trade_id text,
    last_trade_id  text,
    open           numeric(38, 18) NOT NULL,
    high           numeric(38, 18) NOT NULL,
    low            numeric(38, 18) NOT NULL,
    close          numeric(38, 18) NOT NULL,
    volume         numeric(38, 18) NOT NULL,
    quote_volume   numeric(38, 18) NOT NULL,
    buy_volume     numeric(38, 18) NOT NULL,
    ticks          bigint NOT NULL,
    buy_ticks      bigint NOT NULL,
    theta          double precision,
    threshold      double precision,
    expected_ticks double precision,
    warmup         boolean NOT NULL,
    gap            boolean NOT NULL,
    PRIMARY KEY (instrument_id, kind, profile, bar_seq, coin_id, quote_id, exchange_id, interval_id, open_time)
);
COMMENT ON TABLE mart.fact__time_bar IS
    'Time bars, one for each (instrument, kind, profile, bar_seq): open_time is in the key because hypertables want it.';
CREATE INDEX fact__time_bar__newest
    ON mart.fact__time_bar (coin_id, quote_id, exchange_id, interval_id, open_time DESC);

CREATE TABLE mart.fact__tick_imbalance (
    instrument_id  integer NOT NULL REFERENCES mart.dim__instrument,
    coin_id        integer NOT NULL REFERENCES mart.dim__coin,
    quote_id       integer NOT NULL REFERENCES mart.dim__quote,
    exchange_id    integer NOT NULL REFERENCES mart.dim__exchange,
    interval_id    integer NOT NULL REFERENCES mart.dim__interval,
    kind           text NOT NULL CHECK (kind IN ('tib', 'trb')),
    profile        text NOT NULL,
    bar_seq        bigint NOT NULL,
    open_time      timestamptz NOT NULL,
    close_time     timestamptz NOT NULL,
    first_trade_id text,
    last_trade_id  text,
    open           numeric(38, 18) NOT NULL,
    high           numeric(38, 18) NOT NULL,
    low            numeric(38, 18) NOT NULL,
    close          numeric(38, 18) NOT NULL,
    volume         numeric(38, 18) NOT NULL,
    quote_volume   numeric(38, 18) NOT NULL,
    buy_volume     numeric(38, 18) NOT NULL,
    ticks          bigint NOT NULL,
    buy_ticks      bigint NOT NULL,
    theta          double precision,
    threshold      double precision,
    expected_ticks double precision,
    warmup         boolean NOT NULL,
    gap            boolean NOT NULL,
    PRIMARY KEY (instrument_id, kind, profile, bar_seq, coin_id, quote_id, exchange_id, interval_id, open_time)
);
COMMENT ON TABLE mart.fact__tick_imbalance IS 'Tick-imbalance and tick-run bars.';
CREATE INDEX fact__tick_imbalance__newest
    ON mart.fact__tick_imbalance (coin_id, quote_id, exchange_id, interval_id, open_time DESC);

CREATE TABLE mart.fact__vpin (
    instrument_id   integer NOT NULL REFERENCES mart.dim__instrument,
    coin_id         integer NOT NULL REFERENCES mart.dim__coin,
    quote_id        integer NOT NULL REFERENCES mart.dim__quote,
    exchange_id     integer NOT NULL REFERENCES mart.dim__exchange,
    interval_id     integer NOT NULL REFERENCES mart.dim__interval,
    kind            text NOT NULL CHECK (kind = 'vpin'),
    profile         text NOT NULL,
    bar_seq         bigint NOT NULL,
    unit            text NOT NULL CHECK (unit IN ('QUOTE', 'BASE')),
    open_time       timestamptz NOT NULL,
    close_time      timestamptz NOT NULL,
    first_trade_id  text NOT NULL,
    last_trade_id   text NOT NULL,
    open            numeric(38, 18) NOT NULL,
    high            numeric(38, 18) NOT NULL,
    low             numeric(38, 18) NOT NULL,
    close           numeric(38, 18) NOT NULL,
    volume          numeric(38, 18) NOT NULL,
    buy_volume      numeric(38, 18) NOT NULL,
    ticks           bigint NOT NULL,
    sigma           double precision,
    bulk_buy_volume double precision,
    order_imbalance double precision,
    vpin            double precision,
    vpin_aggressor  double precision,
    gap             boolean NOT NULL,
    PRIMARY KEY (instrument_id, kind, profile, bar_seq, coin_id, quote_id, exchange_id, interval_id, open_time)
);
COMMENT ON TABLE mart.fact__vpin IS 'VPIN buckets; kind is always vpin, interval none.';
CREATE INDEX fact__vpin__newest
    ON mart.fact__vpin (coin_id, quote_id, exchange_id, interval_id, open_time DESC);
