-- A dashboard of loads, encoder, searches and labels, for ClickHouse's own /dashboard page and for Grafana, and tables of pictures.

-- encoder_samples: the encoder's counters over time. Kept only where someone samples them, since that keeps the encoder awake:
-- CREATE MATERIALIZED VIEW encoder_sampler REFRESH EVERY 1 MINUTE APPEND TO encoder_samples AS SELECT * FROM encoder_sample.
-- Example: INSERT INTO encoder_samples SELECT * FROM encoder_sample
CREATE TABLE IF NOT EXISTS encoder_samples
(
    sampled_at DateTime,
    counter LowCardinality(String),                  -- a numeric key of encoder_info(), such as text.rows or encode_text.errors
    value Float64
)
ENGINE = MergeTree ORDER BY (counter, sampled_at) TTL sampled_at + INTERVAL 90 DAY;

-- encoder_sample: the encoder's counters now.
-- Example: SELECT counter, value FROM encoder_sample
CREATE OR REPLACE VIEW encoder_sample AS
WITH (SELECT encoder_info()) AS info
SELECT now() AS sampled_at, counter, toFloat64(info[counter]) AS value
FROM (SELECT arrayJoin(arrayFilter(key -> match(key, '\\.(blocks|rows|errors|cache_hits|batches|encoded|queue_seconds|compute_seconds)$'), mapKeys(info))) AS counter);

-- encoder_increases: by how much each counter grew from one sample to the next; after a restart, from zero.
-- Example: SELECT sampled_at, increase FROM encoder_increases WHERE counter = 'text.rows'
CREATE OR REPLACE VIEW encoder_increases AS
SELECT sampled_at, counter, if(value >= before, value - before, value) AS increase
FROM (SELECT *, lagInFrame(value, 1, value) OVER (PARTITION BY counter ORDER BY sampled_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before FROM encoder_samples);

-- dashboard_panels: each panel's title and query, as ClickHouse's /dashboard page takes them: enter the example there.
-- Example: SELECT title, query FROM dashboard_panels
CREATE OR REPLACE VIEW dashboard_panels AS
SELECT *
FROM values('title String, query String',
('Images loaded', $$
SELECT toStartOfInterval(loaded_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t, count() AS images
FROM images
WHERE loaded_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Pictures rejected', $$
SELECT toStartOfInterval(rejected_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t, count() AS rejects
FROM rejects
WHERE rejected_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Rows asked of the encoder', $$
SELECT toStartOfInterval(sampled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    sumIf(increase, counter = 'text.rows') AS texts, sumIf(increase, counter = 'image.rows') AS pictures
FROM encoder_increases
WHERE sampled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Share of rows that needed no model pass', $$
SELECT toStartOfInterval(sampled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    sumIf(increase, endsWith(counter, '.cache_hits')) / greatest(1, sumIf(increase, counter IN ('text.rows', 'image.rows'))) AS share
FROM encoder_increases
WHERE sampled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Inputs in a batch', $$
SELECT toStartOfInterval(sampled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    sumIf(increase, counter = 'text.encoded') / greatest(1, sumIf(increase, counter = 'text.batches')) AS texts,
    sumIf(increase, counter = 'image.encoded') / greatest(1, sumIf(increase, counter = 'image.batches')) AS pictures
FROM encoder_increases
WHERE sampled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Milliseconds an input: queue and model', $$
SELECT toStartOfInterval(sampled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    1000 * sumIf(increase, endsWith(counter, '.queue_seconds')) / greatest(1, sumIf(increase, endsWith(counter, '.encoded'))) AS queue,
    1000 * sumIf(increase, endsWith(counter, '.compute_seconds')) / greatest(1, sumIf(increase, endsWith(counter, '.encoded'))) AS model
FROM encoder_increases
WHERE sampled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Errors of the functions', $$
SELECT toStartOfInterval(sampled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t, sumIf(increase, endsWith(counter, '.errors')) AS errors
FROM encoder_increases
WHERE sampled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Search latency, milliseconds', $$
SELECT toStartOfInterval(event_time, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    quantile(0.5)(query_duration_ms) AS median, quantile(0.95)(query_duration_ms) AS p95
FROM system.query_log
WHERE event_time BETWEEN now() - {seconds:UInt32} AND now() AND type = 'QueryFinish' AND query_kind = 'Select' AND match(query, '\\b(search_\\w+|best_scores|next_to_label)\\s*\\(')
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Searches, and those that failed', $$
SELECT toStartOfInterval(event_time, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    countIf(type = 'QueryFinish') AS answered, countIf(type IN ('ExceptionBeforeStart', 'ExceptionWhileProcessing')) AS failed
FROM system.query_log
WHERE event_time BETWEEN now() - {seconds:UInt32} AND now() AND query_kind = 'Select' AND match(query, '\\b(search_\\w+|best_scores|next_to_label)\\s*\\(')
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Labels', $$
SELECT toStartOfInterval(labelled_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    countIf(positive AND NOT withdrawn) AS yes, countIf(NOT positive AND NOT withdrawn) AS no
FROM labels
WHERE labelled_at BETWEEN now() - {seconds:UInt32} AND now()
GROUP BY t ORDER BY t WITH FILL STEP {rounding:UInt32}$$),
('Average precision of new rounds', $$
SELECT toStartOfInterval(created_at, INTERVAL {rounding:UInt32} SECOND)::INT AS t,
    avg(average_precision) AS refined, avg(text_average_precision) AS text
FROM classifiers
WHERE created_at BETWEEN now() - {seconds:UInt32} AND now() AND average_precision IS NOT NULL
GROUP BY t ORDER BY t$$));

-- dashboard_tables: title and query of tables whose column `picture` holds thumbnails as data URLs, for Grafana's table panel, notebooks
-- and whatever else shows such a URL as a picture. ClickHouse's own page draws curves alone.
-- Example: SELECT title, query FROM dashboard_tables
CREATE OR REPLACE VIEW dashboard_tables AS
SELECT *
FROM values('title String, query String',
('Pictures loaded last', $$
SELECT vdx_data_url(try_thumbnail(source, 96).bytes) AS picture, source, dataset, caption, loaded_at
FROM (SELECT source, dataset, caption, loaded_at FROM current_images ORDER BY loaded_at DESC LIMIT 20)
ORDER BY loaded_at DESC$$),
('Pictures judged last', $$
SELECT vdx_data_url(try_thumbnail(source, 96).bytes) AS picture, concept, positive, source, labelled_at
FROM
(
    SELECT source, concept, positive, labelled_at
    FROM (SELECT concept, image_id, positive, labelled_at FROM labels WHERE NOT withdrawn ORDER BY labelled_at DESC LIMIT 20) AS judged
    INNER JOIN (SELECT id, source FROM current_images) AS images ON images.id = judged.image_id
)
ORDER BY labelled_at DESC$$));
