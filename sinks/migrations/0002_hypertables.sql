-- requires: timescaledb
-- Applied where the extension is; on a plain PostgreSQL the facts stay plain tables until it is installed.

CREATE EXTENSION IF NOT EXISTS timescaledb;

SELECT create_hypertable(fact, by_range('open_time', INTERVAL '7 days'),
                         create_default_indexes => false, migrate_data => true, if_not_exists => true)
  FROM unnest(ARRAY['mart.fact__time_bar', 'mart.fact__tick_imbalance', 'mart.fact__vpin']::regclass[]) AS fact;
