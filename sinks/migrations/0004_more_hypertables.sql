-- requires: timescaledb

SELECT create_hypertable('mart.fact__volume_imbalance', by_range('open_time', INTERVAL '7 days'),
                         create_default_indexes => false, migrate_data => true, if_not_exists => true);
