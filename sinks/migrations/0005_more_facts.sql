-- Klines, consolidated mids, surfaces of implied volatility, the continuity ledger; what is listed no more.

ALTER TABLE mart.dim__instrument
    ADD COLUMN kind         text,
    ADD COLUMN status       text,
    ADD COLUMN expiry       timestamptz,
    ADD COLUMN updated_time timestamptz,
    ADD COLUMN is_deleted   boolean NOT NULL DEFAULT false,
    ADD COLUMN deleted_date timestamptz;
COMMENT ON COLUMN mart.dim__instrument.updated_time IS 'received_time of the record that these columns are of.';

CREATE TABLE mart.series (
    fact   text NOT NULL,
    series text NOT NULL,
    last   bigint NOT NULL,
    PRIMARY KEY (fact, series)
);
COMMENT ON TABLE mart.series IS
    'How far each series of a fact has come: nothing beyond last (a bar_seq, or a time in microseconds) is in its table, '
    'so that a row beyond it is new without a search. Whoever adds rows by hand must raise it.';
INSERT INTO mart.series (fact, series, last)
SELECT fact, concat_ws('/', instrument_id, kind, profile), max(bar_seq)
  FROM (SELECT 'fact__time_bar' AS fact, instrument_id, kind, profile, bar_seq FROM mart.fact__time_bar
        UNION ALL
        SELECT 'fact__tick_imbalance', instrument_id, kind, profile, bar_seq FROM mart.fact__tick_imbalance
        UNION ALL
        SELECT 'fact__volume_imbalance', instrument_id, kind, profile, bar_seq FROM mart.fact__volume_imbalance
        UNION ALL
        SELECT 'fact__vpin', instrument_id, kind, profile, bar_seq FROM mart.fact__vpin) bars
 GROUP BY fact, instrument_id, kind, profile;

CREATE TABLE mart.fact__kline (
    instrument_id          integer NOT NULL REFERENCES mart.dim__instrument,
    coin_id                integer NOT NULL REFERENCES mart.dim__coin,
    quote_id               integer NOT NULL REFERENCES mart.dim__quote,
    exchange_id            integer NOT NULL REFERENCES mart.dim__exchange,
    interval_id            integer NOT NULL REFERENCES mart.dim__interval,
    open_time              timestamptz NOT NULL,
    close_time             timestamptz NOT NULL,
    open                   numeric(38, 18) NOT NULL,
    high                   numeric(38, 18) NOT NULL,
    low                    numeric(38, 18) NOT NULL,
    close                  numeric(38, 18) NOT NULL,
    volume                 numeric(38, 18) NOT NULL,
    quote_volume           numeric(38, 18) NOT NULL,
    trade_count            bigint NOT NULL,
    taker_buy_volume       numeric(38, 18) NOT NULL,
    taker_buy_quote_volume numeric(38, 18) NOT NULL,
    first_trade_id         text,
    last_trade_id          text,
    event_time             timestamptz NOT NULL,
    received_time          timestamptz NOT NULL,
    connection_time        timestamptz NOT NULL,
    connection_sequence    bigint NOT NULL,
    PRIMARY KEY (instrument_id, interval_id, open_time)
);
COMMENT ON TABLE mart.fact__kline IS 'The exchanges'' own candles, one for each (instrument, interval, open_time).';
CREATE INDEX fact__kline__newest
    ON mart.fact__kline (coin_id, quote_id, exchange_id, interval_id, open_time DESC);

CREATE TABLE mart.fact__spot_mid (
    coin_id    integer NOT NULL REFERENCES mart.dim__coin,
    quote_id   integer NOT NULL REFERENCES mart.dim__quote,
    time       timestamptz NOT NULL,
    pair       text NOT NULL,
    mid        double precision,
    quality    text NOT NULL CHECK (quality IN ('Ok', 'Degraded', 'Suspect')),
    divergence double precision,
    expected   bigint NOT NULL,
    used       bigint NOT NULL,
    venues     jsonb NOT NULL,
    PRIMARY KEY (coin_id, quote_id, time)
);
COMMENT ON TABLE mart.fact__spot_mid IS
    'Consolidated mids, one for each pair and second. A pair is of no exchange: those it was made of are in venues.';
COMMENT ON COLUMN mart.fact__spot_mid.venues IS 'An array of {venue, symbol, mid, age (microseconds), used}, by venue.';
CREATE INDEX fact__spot_mid__newest ON mart.fact__spot_mid (coin_id, quote_id, time DESC);

CREATE TABLE mart.fact__iv_surface (
    exchange_id         integer NOT NULL REFERENCES mart.dim__exchange,
    coin_id             integer NOT NULL REFERENCES mart.dim__coin,
    quote_id            integer NOT NULL REFERENCES mart.dim__quote,
    expiry              timestamptz NOT NULL,
    time                timestamptz NOT NULL,
    years               double precision NOT NULL,
    forward             numeric(38, 18),
    atm_iv              double precision,
    risk_reversal_25    double precision,
    butterfly_25        double precision,
    calendar_arbitrage  boolean,
    butterfly_arbitrage boolean,
    seen                bigint NOT NULL,
    used                bigint NOT NULL,
    refused             jsonb NOT NULL,
    oldest_age          bigint,
    points              jsonb NOT NULL,
    PRIMARY KEY (exchange_id, coin_id, quote_id, expiry, time)
);
COMMENT ON TABLE mart.fact__iv_surface IS
    'Implied volatilities, one row for each venue, underlying (coin), price currency (quote), expiry and snapshot.';
COMMENT ON COLUMN mart.fact__iv_surface.points IS
    'The smile: an array of {strike (exact), side, log_moneyness, iv, bid_iv, ask_iv, delta}, by strike.';
CREATE INDEX fact__iv_surface__newest ON mart.fact__iv_surface (exchange_id, coin_id, quote_id, time DESC);

CREATE TABLE mart.fact__gap (
    gap_id          text PRIMARY KEY,
    exchange_id     integer NOT NULL REFERENCES mart.dim__exchange,
    channel         text NOT NULL,
    symbol          text NOT NULL,
    cause           text NOT NULL,
    from_sequence   bigint,
    to_sequence     bigint,
    missing         bigint,
    from_time       timestamptz,
    to_time         timestamptz NOT NULL,
    detected_time   timestamptz NOT NULL,
    repair          text NOT NULL,
    repaired        bigint NOT NULL,
    connection      text NOT NULL,
    detail          text NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset    bigint NOT NULL
);
COMMENT ON TABLE mart.fact__gap IS
    'The continuity ledger, the newest entry of each gap_id. A plain table everywhere: all times of a Gap may change when '
    'it is written again. Its symbol may be a currency or *, all of a venue, so it has no coin and no quote.';
COMMENT ON COLUMN mart.fact__gap.kafka_offset IS 'Where the entry stands in raven.gaps: a higher one is newer.';
CREATE INDEX fact__gap__newest ON mart.fact__gap (exchange_id, channel, to_time DESC);
