-- A concept's history: any round again, what a round moved, the way back, and out of the database and in again.

-- classifier_at(concept, round): one round of a concept; an error where there is none.
-- Example: SELECT method, labels, freedom FROM classifier_at(concept = 'circles', round = 0)
CREATE OR REPLACE VIEW classifier_at AS
SELECT then.round AS round, then.method AS method, then.weight AS weight, then.logit_scale AS logit_scale, then.bias AS bias,
    then.uncertainty AS uncertainty, then.labels AS labels, then.freedom AS freedom, then.model AS model,
    then.weights_hash AS weights_hash, then.created_at AS created_at
FROM
(
    SELECT
        count() AS rounds,
        argMax((round, method, weight, logit_scale, bias, uncertainty, labels, freedom, model, weights_hash, created_at), created_at)::Tuple(
            round UInt32, method String, weight Array(Float32), logit_scale Float64, bias Float64,
            uncertainty Tuple(scale Float64, covariance Float64, bias Float64), labels UInt32, freedom Nullable(Float64),
            model String, weights_hash String, created_at DateTime64(6)) AS then
    FROM classifiers
    WHERE concept = {concept:String} AND round = {round:UInt32}
)
WHERE NOT throwIf(rounds = 0, 'this concept has no such round: SELECT round FROM classifiers WHERE concept = ...');

-- scores_at(concept, round): the same under any round: a concept replayed.
-- Example: SELECT id, probability FROM scores_at(concept = 'circles', round = 0) ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores_at AS
WITH assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {round:UInt32}))) AS then
SELECT id, source, dataset, vdx_probability(vector, then.1, then.2, then.3) AS probability
FROM current_images;

-- labels_at(concept, round): the judgements that counted when a round was trained.
-- Example: SELECT image_id, positive FROM labels_at(concept = 'circles', round = 1)
CREATE OR REPLACE VIEW labels_at AS
SELECT image_id, latest.1 AS positive
FROM
(
    SELECT image_id, argMax((positive, withdrawn), labelled_at) AS latest
    FROM labels
    WHERE concept = {concept:String}
        AND labelled_at <= (SELECT created_at FROM classifier_at(concept = {concept:String}, round = {round:UInt32}))
    GROUP BY image_id
)
WHERE NOT latest.2;

-- undo_label(concept, image_id): withdraws a judgement; the image counts as not judged, the history keeps both.
-- Example: INSERT INTO labels SELECT * FROM undo_label(concept = 'circles', image_id = 42)
CREATE OR REPLACE VIEW undo_label AS
SELECT {concept:String} AS concept, {image_id:UInt64} AS image_id, false AS positive, true AS withdrawn, now64(6) AS labelled_at
WHERE NOT throwIf(
    ({concept:String}, {image_id:UInt64}) NOT IN (SELECT concept, image_id FROM current_labels WHERE concept = {concept:String}),
    'undo_label: this image has no judgement for this concept');

-- revert(concept, to_round): the next round of a concept, equal to an earlier one. Labels stay as they are.
-- Example: INSERT INTO classifiers SELECT * FROM revert(concept = 'circles', to_round = 0)
CREATE OR REPLACE VIEW revert AS
SELECT {concept:String} AS concept, toUInt32((SELECT max(round) FROM classifiers WHERE concept = {concept:String}) + 1) AS round,
    'revert' AS method, weight, logit_scale, bias, uncertainty, labels, freedom,
    NULL AS average_precision, NULL AS text_average_precision, model, weights_hash, now64(6) AS created_at
FROM classifier_at(concept = {concept:String}, round = {to_round:UInt32});

-- nearest_ids(concept, round, k): the k images nearest to the weight of a round.
-- Example: SELECT id FROM nearest_ids(concept = 'circles', round = 0, k = 9)
CREATE OR REPLACE VIEW nearest_ids AS
SELECT id
FROM
(
    SELECT id, loaded_at, _row_exists,
        cosineDistance(vector, (
            SELECT weight FROM classifier_at(concept = {concept:String}, round = {round:UInt32}) SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
ORDER BY distance
LIMIT {k:UInt32};

-- compare_rounds(concept, before, after, k): the images that moved into the k nearest between two rounds, and those that
-- moved out, with the probability of each under both.
-- Example: SELECT moved, count() FROM compare_rounds(concept = 'circles', before = 0, after = 1, k = 20) GROUP BY moved
CREATE OR REPLACE VIEW compare_rounds AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {before:UInt32}))) AS first,
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {after:UInt32}))) AS second,
    old AS (SELECT id FROM nearest_ids(concept = {concept:String}, round = {before:UInt32}, k = {k:UInt32})),
    new AS (SELECT id FROM nearest_ids(concept = {concept:String}, round = {after:UInt32}, k = {k:UInt32}))
SELECT id, source, dataset, if(id GLOBAL IN (SELECT id FROM new), 'in', 'out') AS moved,
    vdx_probability(vector, first.1, first.2, first.3) AS probability_before,
    vdx_probability(vector, second.1, second.2, second.3) AS probability_after
FROM current_images
WHERE id GLOBAL IN (SELECT id FROM old UNION ALL SELECT id FROM new) AND (id GLOBAL IN (SELECT id FROM old)) != (id GLOBAL IN (SELECT id FROM new))
ORDER BY moved, greatest(probability_before, probability_after) DESC;

-- portable_concepts: a concept in one row, for JSON or Parquet: its rounds and its labels, oldest first.
-- Example: SELECT concept, length(rounds), length(judgements) FROM portable_concepts
CREATE OR REPLACE VIEW portable_concepts AS
SELECT concept, rounds, judgements
FROM
(
    SELECT concept, arraySort(row -> row.11, groupArray((
        round, method::String, weight, logit_scale, bias, uncertainty.1, uncertainty.2, uncertainty.3, labels, freedom,
        created_at, model::String, weights_hash::String, average_precision, text_average_precision
    )))::Array(Tuple(
        round UInt32, method String, weight Array(Float32), logit_scale Float64, bias Float64, scale_variance Float64,
        covariance Float64, bias_variance Float64, labels UInt32, freedom Nullable(Float64), created_at DateTime64(6), model String,
        weights_hash String, average_precision Nullable(Float32), text_average_precision Nullable(Float32))) AS rounds
    FROM classifiers
    GROUP BY concept
) AS trained
FULL JOIN
(
    SELECT concept, arraySort(row -> row.4, groupArray((image_id, positive, withdrawn, labelled_at)))::Array(Tuple(
        image_id UInt64, positive Bool, withdrawn Bool, labelled_at DateTime64(6))) AS judgements
    FROM labels
    GROUP BY concept
) AS judged USING (concept);

-- concept_inbox: rows of portable_concepts inserted here become labels and classifiers; what is there already is passed over.
-- Example: INSERT INTO concept_inbox SELECT * FROM portable_concepts
CREATE TABLE IF NOT EXISTS concept_inbox
(
    concept String,
    rounds Array(Tuple(
        round UInt32, method String, weight Array(Float32), logit_scale Float64, bias Float64, scale_variance Float64,
        covariance Float64, bias_variance Float64, labels UInt32, freedom Nullable(Float64), created_at DateTime64(6), model String,
        weights_hash String, average_precision Nullable(Float32), text_average_precision Nullable(Float32))),
    judgements Array(Tuple(image_id UInt64, positive Bool, withdrawn Bool, labelled_at DateTime64(6)))
)
ENGINE = Null;

-- concept_inbox_classifiers: moves the rounds of concept_inbox to classifiers.
CREATE MATERIALIZED VIEW IF NOT EXISTS concept_inbox_classifiers TO classifiers AS
SELECT concept, one.1 AS round, one.2 AS method, one.3 AS weight, one.4 AS logit_scale, one.5 AS bias, (one.6, one.7, one.8) AS uncertainty,
    one.9 AS labels, one.10 AS freedom, one.14 AS average_precision, one.15 AS text_average_precision, one.12 AS model,
    one.13 AS weights_hash, one.11 AS created_at
FROM (SELECT concept, arrayJoin(rounds) AS one FROM concept_inbox)
WHERE (concept, round, created_at) NOT IN (SELECT concept, round, created_at FROM classifiers);

-- concept_inbox_labels: moves the judgements of concept_inbox to labels.
CREATE MATERIALIZED VIEW IF NOT EXISTS concept_inbox_labels TO labels AS
SELECT concept, one.1 AS image_id, one.2 AS positive, one.3 AS withdrawn, one.4 AS labelled_at
FROM (SELECT concept, arrayJoin(judgements) AS one FROM concept_inbox)
WHERE (concept, image_id, labelled_at) NOT IN (SELECT concept, image_id, labelled_at FROM labels);
