-- Candles of 5 m to 1 d, each made of the one below, as views that compute when they are read (0008 has them kept).
-- 2000-01-03 is where TimescaleDB's buckets begin. Bars count that fit into five minutes without a rest.

CREATE VIEW mart.agg__kline_5m AS
SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
       date_bin('5 minutes', open_time, '2000-01-03 00:00+00') AS bucket,
       (array_agg(open ORDER BY open_time))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY open_time DESC))[1] AS close,
       sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count,
       sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
       count(*) AS klines
  FROM mart.fact__kline
 WHERE close_time - open_time <= INTERVAL '5 minutes'
 GROUP BY 1, 2, 3, 4, 5, 6;

CREATE VIEW mart.agg__time_bar_5m AS
SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
       date_bin('5 minutes', open_time, '2000-01-03 00:00+00') AS bucket,
       (array_agg(open ORDER BY open_time))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY open_time DESC))[1] AS close,
       sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(buy_volume) AS buy_volume,
       sum(ticks)::bigint AS ticks, sum(buy_ticks)::bigint AS buy_ticks, bool_or(gap) AS gap, count(*) AS bars
  FROM mart.fact__time_bar
 WHERE mod(300000000, nullif((extract(epoch FROM close_time - open_time) * 1000000)::bigint, 0)) = 0
 GROUP BY 1, 2, 3, 4, 5, 6;

DO $$
DECLARE
    level record;
BEGIN
    FOR level IN
        SELECT * FROM (VALUES ('15m', '15 minutes', '5m'), ('1h', '1 hour', '15m'), ('4h', '4 hours', '1h'),
                              ('1d', '1 day', '4h')) AS levels (name, width, below)
    LOOP
        EXECUTE format($view$
            CREATE VIEW mart.agg__kline_%s AS
            SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
                   date_bin(%L, bucket, '2000-01-03 00:00+00') AS bucket,
                   (array_agg(open ORDER BY bucket))[1] AS open, max(high) AS high, min(low) AS low,
                   (array_agg(close ORDER BY bucket DESC))[1] AS close,
                   sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(trade_count)::bigint AS trade_count,
                   sum(taker_buy_volume) AS taker_buy_volume, sum(taker_buy_quote_volume) AS taker_buy_quote_volume,
                   sum(klines)::bigint AS klines
              FROM mart.agg__kline_%s
             GROUP BY 1, 2, 3, 4, 5, 6 $view$, level.name, level.width, level.below);
        EXECUTE format($view$
            CREATE VIEW mart.agg__time_bar_%s AS
            SELECT instrument_id, coin_id, quote_id, exchange_id, interval_id,
                   date_bin(%L, bucket, '2000-01-03 00:00+00') AS bucket,
                   (array_agg(open ORDER BY bucket))[1] AS open, max(high) AS high, min(low) AS low,
                   (array_agg(close ORDER BY bucket DESC))[1] AS close,
                   sum(volume) AS volume, sum(quote_volume) AS quote_volume, sum(buy_volume) AS buy_volume,
                   sum(ticks)::bigint AS ticks, sum(buy_ticks)::bigint AS buy_ticks, bool_or(gap) AS gap,
                   sum(bars)::bigint AS bars
              FROM mart.agg__time_bar_%s
             GROUP BY 1, 2, 3, 4, 5, 6 $view$, level.name, level.width, level.below);
    END LOOP;
END
$$;
