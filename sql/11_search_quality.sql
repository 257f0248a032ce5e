-- How good the index is on the data at hand: recall@k against brute force, by filter and by ef_search, with latency.

-- search_trials: what search_trial measured, kept.
-- Example: SELECT count() FROM search_trials
CREATE TABLE IF NOT EXISTS search_trials
(
    seed String,
    k UInt32,
    share Float64,                                   -- of the images that the filter passes
    ef_search UInt32,                                -- hnsw_candidate_list_size_for_search
    recall Float64,
    milliseconds Float64,                            -- of the search through the index
    exact_milliseconds Float64,                      -- of the exact scan
    images UInt64,
    measured_at DateTime64(3) DEFAULT now64(3)
)
ENGINE = MergeTree ORDER BY (share, ef_search, measured_at);

-- search_trial(seed, share, k): searches for the k nearest to an image that the seed picks, itself left out, among a share of all
-- images that a filter passes: through the index with four values of ef_search, and exactly.
-- Example: INSERT INTO search_trials SELECT * FROM search_trial(seed = '1', share = 1, k = 10)
CREATE OR REPLACE VIEW search_trial AS
WITH
    (SELECT (any(id), any(vector)) FROM current_images WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {seed:String}, n = 1))) AS query,
    sipHash64(id, 'share') % 1000000 < {share:Float64} * 1000000 AS passes,
    if({share:Float64} >= 1, {k:UInt32} + 1, 1000) AS fetched, -- as search_text_where does
    -- The times are taken between scalar subqueries, which run one after the other. Settings take no parameters of a view, so
    -- each ef_search is written out.
    (SELECT (length(query.2) + fetched, nowInBlock64(6))) AS start,
    (SELECT groupArrayIf({k:UInt32})(id, passes AND id != query.1) FROM (SELECT id FROM images ORDER BY cosineDistance(vector, (SELECT query.2))
        LIMIT fetched SETTINGS hnsw_candidate_list_size_for_search = 16)) AS found_16,
    (SELECT (2, nowInBlock64(6))) AS after_16,
    (SELECT groupArrayIf({k:UInt32})(id, passes AND id != query.1) FROM (SELECT id FROM images ORDER BY cosineDistance(vector, (SELECT query.2))
        LIMIT fetched SETTINGS hnsw_candidate_list_size_for_search = 64)) AS found_64,
    (SELECT (3, nowInBlock64(6))) AS after_64,
    (SELECT groupArrayIf({k:UInt32})(id, passes AND id != query.1) FROM (SELECT id FROM images ORDER BY cosineDistance(vector, (SELECT query.2))
        LIMIT fetched SETTINGS hnsw_candidate_list_size_for_search = 256)) AS found_256,
    (SELECT (4, nowInBlock64(6))) AS after_256,
    (SELECT groupArrayIf({k:UInt32})(id, passes AND id != query.1) FROM (SELECT id FROM images ORDER BY cosineDistance(vector, (SELECT query.2))
        LIMIT fetched SETTINGS hnsw_candidate_list_size_for_search = 1024)) AS found_1024,
    (SELECT (5, nowInBlock64(6))) AS after_1024,
    -- The sum keeps this one from the index.
    (SELECT groupArray(id) FROM (SELECT id FROM images WHERE passes AND id != query.1
        ORDER BY cosineDistance(vector, (SELECT query.2)) + 0 LIMIT {k:UInt32})) AS exact,
    (SELECT (6, nowInBlock64(6))) AS after_exact
SELECT
    {seed:String} AS seed,
    {k:UInt32} AS k,
    {share:Float64} AS share,
    trial.1::UInt32 AS ef_search,
    if(empty(exact), 1, length(arrayIntersect(trial.3, exact)) / length(exact)) AS recall, -- of nothing nothing is missed
    assumeNotNull(dateDiff('microsecond', trial.2, trial.4)) / 1000 AS milliseconds,
    assumeNotNull(dateDiff('microsecond', after_1024.2, after_exact.2)) / 1000 AS exact_milliseconds,
    assumeNotNull((SELECT count() FROM images)) AS images,
    now64(3) AS measured_at
FROM
(
    SELECT arrayJoin([
        (16, start.2, found_16, after_16.2),
        (64, after_16.2, found_64, after_64.2),
        (256, after_64.2, found_256, after_256.2),
        (1024, after_256.2, found_1024, after_1024.2)]) AS trial
);

-- search_quality: the trials by filter and ef_search: mean recall, median latency of index and exact scan.
-- Example: SELECT share, ef_search, recall, milliseconds FROM search_quality
CREATE OR REPLACE VIEW search_quality AS
SELECT k, share, ef_search, count() AS trials, avg(found) AS recall, min(found) AS worst_recall,
    median(taken) AS milliseconds, median(scanned) AS exact_milliseconds
FROM (SELECT k, share, ef_search, recall AS found, milliseconds AS taken, exact_milliseconds AS scanned FROM search_trials)
GROUP BY k, share, ef_search
ORDER BY k, share DESC, ef_search;

-- ef_search_for(recall, share): the least ef_search that reached a mean recall with filters that pass that share of images or
-- more, and its latency; NULL where none did: then search exactly.
-- Example: SELECT ef_search FROM ef_search_for(recall = 0.95, share = 1)
CREATE OR REPLACE VIEW ef_search_for AS
SELECT if(count() = 0, NULL, min(enough)) AS ef_search, if(count() = 0, NULL, argMin(latency, enough)) AS milliseconds
FROM
(
    SELECT trials.ef_search AS enough, median(trials.milliseconds) AS latency
    FROM search_trials AS trials
    WHERE trials.share >= {share:Float64}
    GROUP BY trials.ef_search
    HAVING avg(trials.recall) >= {recall:Float64}
);
