-- How complete feeds are, hour by hour, by the continuity ledger alone; counted as ravenctl/completeness.py counts.
--
-- A symbol counts from the hour in which the ledger first names it, until now: of a collector that is down there is no Gap
-- yet. The symbol * is all of a feed. A hole without a beginning (a first start) begins with the last time before that
-- the ledger tells of its symbol, else before all that is known.

CREATE VIEW mart.completeness_hourly AS
WITH gap AS (
    SELECT gap_id, exchange_id, channel, symbol, cause, missing, repaired, from_time, to_time,
           least(from_time, to_time) AS begin_time,
           CASE WHEN to_sequence >= from_sequence THEN to_sequence - from_sequence + 1
                WHEN channel = 'klines' THEN coalesce(missing, 0) ELSE 0 END AS ids,
           channel IN ('trades', 'klines') AS counts
      FROM mart.fact__gap
),
feed AS (
    SELECT exchange_id, channel, min(begin_time) AS known_from, bool_and(symbol = '*') AS nameless
      FROM gap GROUP BY exchange_id, channel
),
member AS (
    SELECT exchange_id, channel, gap.symbol, min(begin_time) AS known_from,
           array_agg(from_time) || array_agg(to_time) AS told
      FROM gap JOIN feed USING (exchange_id, channel)
     WHERE gap.symbol <> '*' OR nameless
     GROUP BY exchange_id, channel, gap.symbol
),
hole AS (
    SELECT member.exchange_id, member.channel, member.symbol, member.known_from,
           coalesce(range_agg(tstzrange(
               CASE WHEN from_time IS NOT NULL THEN begin_time
                    ELSE coalesce((SELECT max(at) FROM unnest(told) AS at WHERE at < to_time - INTERVAL '1 second'),
                                  '-infinity') END,
               to_time)) FILTER (WHERE missing IS DISTINCT FROM 0), '{}') AS times
      FROM member JOIN gap ON gap.exchange_id = member.exchange_id AND gap.channel = member.channel
                              AND gap.symbol IN (member.symbol, '*')
     GROUP BY member.exchange_id, member.channel, member.symbol, member.known_from
)
SELECT exchange_id, exchange.name AS venue, feed.channel, hour,
       extract(epoch FROM until - hour) AS seconds,
       covered.seconds AS covered_seconds, extract(epoch FROM until - hour) - covered.seconds AS missing_seconds,
       symbols, worst_symbol, worst_covered_seconds,
       gaps, unknown_gaps, first_starts, missing_ids, repaired_ids, repaired_gaps
  FROM feed
  JOIN mart.dim__exchange exchange USING (exchange_id)
 CROSS JOIN LATERAL generate_series(date_bin('1 hour', known_from, 'epoch'), now(), INTERVAL '1 hour') AS hours (hour)
 CROSS JOIN LATERAL (SELECT least(hour + INTERVAL '1 hour', now()) AS until) AS ends
 CROSS JOIN LATERAL (
    SELECT count(*) AS symbols, trunc(avg(seconds), 6) AS seconds,
           (array_agg(symbol ORDER BY seconds, symbol))[1] AS worst_symbol, min(seconds) AS worst_covered_seconds
      FROM hole
     CROSS JOIN LATERAL (
        -- What begins within a minute of an hour was there from its beginning.
        SELECT tstzrange(CASE WHEN hole.known_from <= hour + INTERVAL '1 minute' THEN hour
                              ELSE hole.known_from END, until) AS span) AS spans
     CROSS JOIN LATERAL (
        SELECT extract(epoch FROM upper(span) - lower(span))
               - coalesce(sum(extract(epoch FROM upper(part) - lower(part))), 0) AS seconds
          FROM unnest(times * tstzmultirange(span)) AS part) AS parts
     WHERE hole.exchange_id = feed.exchange_id AND hole.channel = feed.channel AND hole.known_from < until
 ) AS covered
 CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE share > 0 OR (cause <> 'COLD_START' AND CASE WHEN counts THEN missing IS NULL
                                                                              ELSE missing IS DISTINCT FROM 0 END)) AS gaps,
           count(*) FILTER (WHERE counts AND missing IS NULL AND cause <> 'COLD_START') AS unknown_gaps,
           count(*) FILTER (WHERE cause = 'COLD_START' AND to_time >= hour AND to_time < until) AS first_starts,
           coalesce(sum(share), 0)::bigint AS missing_ids,
           coalesce(sum(repaired) FILTER (WHERE ended_here), 0)::bigint AS repaired_ids,
           count(*) FILTER (WHERE repaired > 0 AND ended_here) AS repaired_gaps
      FROM (SELECT gap.*,
                   to_time >= hour AND least(to_time, now() - INTERVAL '1 microsecond') < until AS ended_here,
                   -- Where an hour turns within a Gap, its ids are spread evenly over its time.
                   CASE WHEN begin_time = to_time OR from_time IS NULL
                        THEN CASE WHEN to_time >= hour AND to_time < hour + INTERVAL '1 hour' THEN ids ELSE 0 END
                        ELSE div(ids * extract(epoch FROM least(to_time, hour + INTERVAL '1 hour') - begin_time),
                                 extract(epoch FROM to_time - begin_time))
                             - div(ids * extract(epoch FROM greatest(begin_time, hour) - begin_time),
                                   extract(epoch FROM to_time - begin_time)) END AS share
              FROM gap
             WHERE gap.exchange_id = feed.exchange_id AND gap.channel = feed.channel
               AND begin_time < until AND to_time >= hour) AS here
 ) AS counted;
COMMENT ON VIEW mart.completeness_hourly IS
    'Each venue''s feeds by the hour: seconds covered (the mean of their symbols), ids missing and repaired, Gaps.';
