-- Few-shot refinement: start from a text vector, search, mark near misses, take a few training steps, search again.

-- current_labels: the judgement that counts for each concept and image.
-- Example: SELECT concept, countIf(positive), countIf(NOT positive) FROM current_labels GROUP BY concept
CREATE OR REPLACE VIEW current_labels AS
SELECT concept, image_id, argMax(positive, labelled_at) AS positive
FROM labels
GROUP BY concept, image_id;

-- current_classifiers: each concept's latest round.
-- Example: SELECT concept, round FROM current_classifiers
CREATE OR REPLACE VIEW current_classifiers AS
SELECT concept, latest.1 AS round, latest.2 AS weight
FROM (SELECT concept, argMax((round, weight), round) AS latest FROM classifiers GROUP BY concept);

-- current_weight(concept): the round and weight that a concept has reached; an error where it was never started.
-- Example: SELECT round, length(weight) FROM current_weight(concept = 'circles')
CREATE OR REPLACE VIEW current_weight AS
SELECT groupArray(round)[1] AS round, groupArray(weight)[1] AS weight
FROM current_classifiers
WHERE concept = {concept:String}
HAVING NOT throwIf(count() = 0, 'this concept has no classifier yet: INSERT INTO classifiers SELECT * FROM start_concept(concept = ..., prompt = ...)');

-- start_concept(concept, prompt): round 0 of a concept, the text vector of a prompt.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')
CREATE OR REPLACE VIEW start_concept AS
SELECT {concept:String} AS concept, 0::UInt32 AS round, 'text' AS method, encode_text({prompt:String}) AS weight,
    0::UInt32 AS labels, now64(6) AS created_at;

-- next_to_label(concept, k): the k unjudged images nearest to the current weight. Those that are wrong are the hard
-- negatives.
-- Example: SELECT * FROM next_to_label(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW next_to_label AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset,
        cosineDistance(vector, (SELECT weight FROM current_weight(concept = {concept:String}))) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT count() FROM current_labels WHERE concept = {concept:String})
)
WHERE id NOT IN (SELECT image_id FROM labels WHERE concept = {concept:String})
ORDER BY distance
LIMIT {k:UInt32};

-- fit(concept, steps, learning_rate): the next round of a concept, trained on its labels from its current weight.
-- The published recipe is steps = 5, learning_rate = 0.1.
-- Example: INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)
CREATE OR REPLACE VIEW fit AS
WITH
    (SELECT (round, weight) FROM current_weight(concept = {concept:String})) AS current,
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))
        FROM images
        INNER JOIN current_labels ON image_id = id
        WHERE concept = {concept:String}
        HAVING NOT throwIf(count() = 0, 'this concept has no labels yet: INSERT INTO labels (concept, image_id, positive) VALUES (...)')
    ) AS samples
SELECT
    {concept:String} AS concept,
    toUInt32(current.1 + 1) AS round,
    'sgd' AS method,
    arrayFold(
        (weight, step) -> vdx_sgd_step(weight, samples.1, samples.2, {learning_rate:Float64}),
        range({steps:UInt32}),
        CAST(current.2, 'Array(Float64)'))::Array(Float32) AS weight,
    toUInt32(length(samples.2)) AS labels,
    now64(6) AS created_at;

-- scores(concept): every image's probability under the concept's current classifier.
-- Example: SELECT id, probability FROM scores(concept = 'circles') ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores AS
WITH (SELECT vdx_normalize(weight) FROM current_weight(concept = {concept:String})) AS unit
SELECT id, source, dataset, vdx_sigmoid(dotProduct(vector, unit)) AS probability
FROM images;
