-- Volume- and dollar-imbalance bars, and where a VPIN stands among those before it.

CREATE TABLE mart.fact__volume_imbalance (
    LIKE mart.fact__tick_imbalance,
    PRIMARY KEY (instrument_id, kind, profile, bar_seq, coin_id, quote_id, exchange_id, interval_id, open_time),
    CHECK (kind IN ('vib', 'dib')),
    FOREIGN KEY (instrument_id) REFERENCES mart.dim__instrument,
    FOREIGN KEY (coin_id) REFERENCES mart.dim__coin,
    FOREIGN KEY (quote_id) REFERENCES mart.dim__quote,
    FOREIGN KEY (exchange_id) REFERENCES mart.dim__exchange,
    FOREIGN KEY (interval_id) REFERENCES mart.dim__interval
);
COMMENT ON TABLE mart.fact__volume_imbalance IS 'Volume- and dollar-imbalance bars.';
CREATE INDEX fact__volume_imbalance__newest
    ON mart.fact__volume_imbalance (coin_id, quote_id, exchange_id, interval_id, open_time DESC);

ALTER TABLE mart.fact__vpin ADD COLUMN vpin_percentile double precision;
