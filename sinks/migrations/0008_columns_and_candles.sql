-- requires: timescaledb community
-- Facts that may be compressed, and the candles of 0006 as continuous aggregates that are up to date when they are read.
-- How old chunks are when they are compressed or dropped is configuration (sinks/stores/timescale_policies.py).

ALTER TABLE mart.fact__time_bar SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, coin_id, quote_id, exchange_id, interval_id, kind, profile',
     timescaledb.compress_orderby = 'bar_seq, open_time');
ALTER TABLE mart.fact__tick_imbalance SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, coin_id, quote_id, exchange_id, interval_id, kind, profile',
     timescaledb.compress_orderby = 'bar_seq, open_time');
ALTER TABLE mart.fact__volume_imbalance SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, coin_id, quote_id, exchange_id, interval_id, kind, profile',
     timescaledb.compress_orderby = 'bar_seq, open_time');
ALTER TABLE mart.fact__vpin SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, coin_id, quote_id, exchange_id, interval_id, kind, profile',
     timescaledb.compress_orderby = 'bar_seq, open_time');
ALTER TABLE mart.fact__kline SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'instrument_id, coin_id, quote_id, exchange_id, interval_id',
     timescaledb.compress_orderby = 'open_time');
ALTER TABLE mart.fact__spot_mid SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'coin_id, quote_id', timescaledb.compress_orderby = 'time');
ALTER TABLE mart.fact__iv_surface SET
    (timescaledb.compress, timescaledb.compress_segmentby = 'exchange_id, coin_id, quote_id, expiry',
     timescaledb.compress_orderby = 'time');

DROP VIEW mart.agg__kline_1d, mart.agg__kline_4h, mart.agg__kline_1h, mart.agg__kline_15m, mart.agg__kline_5m,
          mart.agg__time_bar_1d, mart.agg__time_bar_4h, mart.agg__time_bar_1h, mart.agg__time_bar_15m,
          mart.agg__time_bar_5m;

CREATE MATERIALIZED VIEW mart.agg__kline_5m
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
       time_bucket('5 minutes', open_time) AS bucket,
       first(open, open_time) AS open, max(high) AS high, min(low) AS low, last(close, open_time) AS close,
       sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count,
       sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
       count(*) AS klines
  FROM mart.fact__kline
 WHERE close_time - open_time <= INTERVAL '5 minutes'
 GROUP BY 1, 2, 3, 4, 5, 6
  WITH NO DATA;

CREATE MATERIALIZED VIEW mart.agg__time_bar_5m
  WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
       time_bucket('5 minutes', open_time) AS bucket,
       first(open, open_time) AS open, max(high) AS high, min(low) AS low, last(close, open_time) AS close,
       sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(buy_volume) AS buy_volume,
       sum(ticks)::bigint AS ticks, sum(buy_ticks)::bigint AS buy_ticks, bool_or(gap) AS gap, count(*) AS bars
  FROM mart.fact__time_bar
 WHERE mod(300000000, nullif((extract(epoch FROM close_time - open_time) * 1000000)::bigint, 0)) = 0
 GROUP BY 1, 2, 3, 4, 5, 6
  WITH NO DATA;

DO $$
DECLARE
    level record;
BEGIN
    FOR level IN
        SELECT * FROM (VALUES ('15m', '15 minutes', '5m'), ('1h', '1 hour', '15m'), ('4h', '4 hours', '1h'),
                              ('1d', '1 day', '4h')) AS levels (name, width, below)
    LOOP
        EXECUTE format($view$
            CREATE MATERIALIZED VIEW mart.agg__kline_%s
              WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
                   time_bucket(%L, bucket) AS bucket,
                   first(open, bucket) AS open, max(high) AS high, min(low) AS low, last(close, bucket) AS close,
                   sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count,
                   sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
                   sum(klines)::bigint AS klines
              FROM mart.agg__kline_%s
             GROUP BY 1, 2, 3, 4, 5, 6
              WITH NO DATA $view$, level.name, level.width, level.below);
        EXECUTE format($view$
            CREATE MATERIALIZED VIEW mart.agg__time_bar_%s
              WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
            SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
                   time_bucket(%L, bucket) AS bucket,
                   first(open, bucket) AS open, max(high) AS high, min(low) AS low, last(close, bucket) AS close,
                   sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(buy_volume) AS buy_volume,
                   sum(ticks)::bigint AS ticks, sum(buy_ticks)::bigint AS buy_ticks, bool_or(gap) AS gap,
                   sum(bars)::bigint AS bars
              FROM mart.agg__time_bar_%s
             GROUP BY 1, 2, 3, 4, 5, 6
              WITH NO DATA $view$, level.name, level.width, level.below);
    END LOOP;
END
$$;

CREATE TABLE mart.policy (
    name      text PRIMARY KEY,
    statement text
);
COMMENT ON TABLE mart.policy IS 'The jobs that Raven has given TimescaleDB, as the configuration then was.';
