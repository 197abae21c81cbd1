-- requires: timescaledb
-- Chunks of a day where there is a row a second, or a long row every ten.

SELECT create_hypertable('mart.fact__kline', by_range('open_time', INTERVAL '7 days'),
                         create_default_indexes => false, migrate_data => true, if_not_exists => true);
SELECT create_hypertable(fact, by_range('time', INTERVAL '1 day'),
                         create_default_indexes => false, migrate_data => true, if_not_exists => true)
  FROM unnest(ARRAY['mart.fact__spot_mid', 'mart.fact__iv_surface']::regclass[]) AS fact;
