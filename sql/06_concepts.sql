-- Many concepts at once: every image against every concept in one pass, and scores that are kept.

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
