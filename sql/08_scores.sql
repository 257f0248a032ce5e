-- What a concept says of the images: probabilities, the best, where to cut; of many concepts in one pass, and kept.

-- scores(concept): every image's probability under the concept's current classifier.
-- Example: SELECT id, probability FROM scores(concept = 'circles') ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores AS
WITH assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current
SELECT id, source, dataset, vdx_probability(vector, current.1, current.2, current.3) AS probability
FROM current_images;

-- best_scores(concept, dataset, attribute, value, k): the k most probable images of a concept, judged ones included, filtered
-- as search_vector_where does and through the vector index like it.
-- Example: SELECT * FROM best_scores(concept = 'circles', dataset = '', attribute = '', value = '', k = 9)
CREATE OR REPLACE VIEW best_scores AS
WITH
    assumeNotNull((SELECT (weight, logit_scale, bias) FROM current_weight(concept = {concept:String}) SETTINGS apply_deleted_mask = 1)) AS current,
    -- By one id in 1,024, which are hashes.
    (
        SELECT vdx_is_rare(countIf(attributes[{attribute:String}] = {value:String}), count(), {k:UInt32})
        FROM
        (
            SELECT attributes
            FROM images
            WHERE {attribute:String} != '' AND id < 18014398509481984 AND ({dataset:String} = '' OR dataset = {dataset:String})
            LIMIT 100000
        )
    ) AS is_rare,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, distance))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, distance
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, attributes, loaded_at, _row_exists,
                    cosineDistance(vector, current.1) AS distance
                FROM images
                WHERE NOT is_rare AND ({dataset:String} = '' OR dataset = {dataset:String})
                ORDER BY distance
                LIMIT if({attribute:String} = '', least(1000, 2 * {k:UInt32} + 30), 1000)
                SETTINGS apply_deleted_mask = 0
            )
            WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
            ORDER BY distance
            LIMIT {k:UInt32}
        )
    ) AS near
SELECT id, source, dataset, vdx_sigmoid(current.2 * (1 - distance) + current.3) AS probability
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, current.1) + 0 AS distance
    FROM images
    WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- threshold(concept, precision): the least probability from which on the images are right as often as wanted even by the lower end of
-- a 90 % interval; how many those are, how many of them are expected to be right, and the intervals. Where no threshold reaches it,
-- `reached` is false and the row is the cut with the highest precision that is expected: look at its interval before you rely
-- on it. A round that was not calibrated (round 0, fit) has no interval, NULL, and goes by what is expected.
--
-- It adds up the calibrated probabilities of all images. The calibration rests on labels that were chosen by their scores
-- or at random, never by what they show, so at any one score the judged images speak for the others. The intervals
-- are those of 200 draws of logit scale and bias from their `uncertainty`; they hold no other doubt.
-- Example: SELECT threshold, reached, images, expected_precision, precision_low FROM threshold(concept = 'circles', precision = 0.9)
CREATE OR REPLACE VIEW threshold AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias, uncertainty) FROM current_weight(concept = {concept:String}))) AS current,
    counted AS
    (
        SELECT arrayReverseSort(bin -> bin.1, groupArray((logit, rows))) AS bins
        FROM
        (
            SELECT round(current.2 * dotProduct(vector, current.1) + current.3, 1) AS logit, count() AS rows
            FROM current_images
            GROUP BY logit
        )
    ),
    -- Draw 0 is the estimate; the others are two normal numbers each (Box-Muller on an additive recurrence).
    draws AS
    (
        SELECT
            draw,
            sqrt(-2 * log(greatest(0.5, draw - 0.5) / 200)) * cos(2 * pi() * draw * 0.6180339887498949) AS first,
            sqrt(-2 * log(greatest(0.5, draw - 0.5) / 200)) * sin(2 * pi() * draw * 0.6180339887498949) AS second,
            if(draw = 0, 0., sqrt(current.4.scale) * first) AS more_scale,
            if(draw = 0, 0, if(current.4.scale > 0, current.4.covariance / sqrt(current.4.scale), 0) * first
                + sqrt(greatest(0, current.4.bias - if(current.4.scale > 0, current.4.covariance * current.4.covariance / current.4.scale, 0))) * second) AS more_bias,
            bins.1 AS logits,
            arrayCumSum(bins.2) AS above,
            arrayCumSum(arrayMap(
                (logit, rows) -> rows * vdx_sigmoid(logit + more_scale * (logit - current.3) / current.2 + more_bias), bins.1, bins.2)) AS right
        FROM counted
        ARRAY JOIN range(201) AS draw
    ),
    cut AS
    (
        SELECT any(logits) AS cuts, any(above) AS above_cuts, anyIf(right, draw = 0) AS right_cuts,
            arrayMap((found, rows) -> found / rows, right_cuts, above_cuts) AS precisions,
            quantileForEachIf(0.05)(right, draw > 0) AS low_cuts,
            arrayLastIndex(
                (found, rows) -> found / rows >= {precision:Float64}, if(current.4.bias = 0, right_cuts, low_cuts), above_cuts) AS last,
            if(last > 0, last, arrayLastIndex(expected -> expected = arrayMax(precisions), precisions)) AS at,
            arrayMap(row -> row[at], groupArrayIf(right, draw > 0)) AS drawn
        FROM draws
    )
SELECT
    if(at = 0, NULL, vdx_sigmoid(cuts[at] - 0.05)) AS threshold, -- NULL without a picture
    last > 0 AS reached,
    above_cuts[at] AS images,
    right_cuts[at] AS expected_right,
    if(current.4.bias = 0, NULL, low_cuts[at]) AS right_low,
    if(current.4.bias = 0, NULL, arrayReduce('quantile(0.95)', drawn)) AS right_high,
    if(at = 0, NULL, expected_right / images) AS expected_precision,
    if(at = 0, NULL, right_low / images) AS precision_low,
    if(at = 0, NULL, right_high / images) AS precision_high
FROM cut
WHERE NOT throwIf(NOT ({precision:Float64} > 0 AND {precision:Float64} <= 1), 'threshold: a precision is more than 0 and at most 1');

-- concept_weights: each concept's current classifier, its weight at unit length.
-- Example: SELECT concept, round FROM concept_weights
CREATE OR REPLACE VIEW concept_weights AS
SELECT concept, round, vdx_normalize(weight) AS unit, logit_scale, bias
FROM current_classifiers;

-- concept_scores: every image's probability under every concept, in one pass over the vectors.
-- Example: SELECT id, probabilities['circles'] FROM concept_scores LIMIT 9
CREATE OR REPLACE VIEW concept_scores AS
WITH (SELECT (groupArray(concept), groupArray((unit, logit_scale, bias))) FROM concept_weights) AS known
SELECT
    id, source, dataset,
    CAST((known.1, arrayMap(one -> vdx_probability(vector, one.1, one.2, one.3), known.2)), 'Map(String, Float64)') AS probabilities
FROM current_images;

-- best_concepts(k): each image's k most probable concepts, best first.
-- Example: SELECT id, best[1].concept, best[1].probability FROM best_concepts(k = 3) LIMIT 9
CREATE OR REPLACE VIEW best_concepts AS
SELECT id, source, dataset,
    arraySlice(arrayReverseSort(pair -> pair.2, CAST(probabilities, 'Array(Tuple(concept String, probability Float64))')), 1, {k:UInt32}) AS best
FROM concept_scores;

-- kept_concepts: the concepts whose scores are kept in kept_scores.
-- Example: INSERT INTO kept_concepts VALUES ('circles')
CREATE TABLE IF NOT EXISTS kept_concepts (concept String) ENGINE = ReplacingMergeTree ORDER BY concept;

-- kept_scores: probabilities of images under kept concepts. New images are scored as they come in; after a round, or for
-- a concept that is new here: INSERT INTO kept_scores SELECT * FROM stale_scores.
-- current_scores has those of the images that count.
-- Example: SELECT image_id, probability FROM kept_scores FINAL WHERE concept = 'circles' ORDER BY probability DESC LIMIT 9
CREATE TABLE IF NOT EXISTS kept_scores
(
    concept LowCardinality(String),
    image_id UInt64,
    round UInt32,
    probability Float32
)
ENGINE = ReplacingMergeTree(round) ORDER BY (concept, image_id);

-- current_scores: the kept scores of the images that count.
-- Example: SELECT image_id, probability FROM current_scores WHERE concept = 'circles' ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW current_scores AS
SELECT concept, image_id, round, probability FROM kept_scores FINAL WHERE image_id GLOBAL IN (SELECT id FROM current_images);

-- kept_scores_of_new: scores what comes into images. Runs with every insert, so it picks the kept concepts before their rounds
-- instead of reading current_classifiers, which looks at all.
CREATE MATERIALIZED VIEW IF NOT EXISTS kept_scores_of_new TO kept_scores AS
SELECT concept, id AS image_id, round, vdx_probability(vector, vdx_normalize(weight), logit_scale, bias)::Float32 AS probability
FROM images
CROSS JOIN
(
    SELECT concept, round, weight, logit_scale, bias
    FROM classifiers
    WHERE concept IN (SELECT concept FROM kept_concepts)
    ORDER BY round DESC, created_at DESC
    LIMIT 1 BY concept
) AS current;

-- stale_scores: the scores that kept_scores lacks under its concepts' current rounds.
-- Example: INSERT INTO kept_scores SELECT * FROM stale_scores
CREATE OR REPLACE VIEW stale_scores AS
WITH (
    SELECT groupArray((concept, round, unit, logit_scale, bias)) FROM concept_weights WHERE concept IN (SELECT concept FROM kept_concepts)
) AS known
SELECT one.1 AS concept, id AS image_id, one.2 AS round, vdx_probability(vector, one.3, one.4, one.5)::Float32 AS probability
FROM current_images
ARRAY JOIN known AS one
WHERE (concept, image_id, round) GLOBAL NOT IN (SELECT concept, image_id, round FROM kept_scores);
