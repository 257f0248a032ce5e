-- A concept's history: any round again, what a round moved, the way back, and out of the database and in again.

-- classifier_at(concept, round): one round of a concept; an error where there is none. A round below 0 counts from the end, here and
-- in the views that follow: -1 is the latest, -2 the one before it, and the first where there are no more.
-- Example: SELECT method, labels, freedom FROM classifier_at(concept = 'circles', round = 0)
CREATE OR REPLACE VIEW classifier_at AS
SELECT then.round AS round, then.method AS method, then.weight AS weight, then.logit_scale AS logit_scale, then.bias AS bias,
    then.uncertainty AS uncertainty, then.labels AS labels, then.freedom AS freedom, then.average_precision AS average_precision,
    then.text_average_precision AS text_average_precision, then.model AS model, then.weights_hash AS weights_hash,
    then.created_at AS created_at
FROM
(
    SELECT
        count() AS rounds,
        argMax((round, method, weight, logit_scale, bias, uncertainty, labels, freedom, average_precision, text_average_precision, model,
            weights_hash, created_at), created_at)::Tuple(
            round UInt32, method String, weight Array(Float32), logit_scale Float64, bias Float64,
            uncertainty Tuple(scale Float64, covariance Float64, bias Float64), labels UInt32, freedom Nullable(Float64),
            average_precision Nullable(Float32), text_average_precision Nullable(Float32), model String, weights_hash String,
            created_at DateTime64(6)) AS then
    FROM classifiers
    WHERE concept = {concept:String} AND round = if({round:Int64} >= 0, {round:Int64}, (
        SELECT min(round)
        FROM (SELECT DISTINCT round FROM classifiers WHERE concept = {concept:String} ORDER BY round DESC LIMIT toUInt32(greatest(1, -{round:Int64})))))
)
WHERE NOT throwIf(rounds = 0, 'this concept has no such round: SELECT round FROM classifiers WHERE concept = ...');

-- scores_at(concept, round): the same under any round: a concept replayed.
-- Example: SELECT id, probability FROM scores_at(concept = 'circles', round = 0) ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores_at AS
WITH assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {round:Int64}))) AS then
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
        AND labelled_at <= (SELECT created_at FROM classifier_at(concept = {concept:String}, round = {round:Int64}))
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
            SELECT weight FROM classifier_at(concept = {concept:String}, round = {round:Int64}) SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
ORDER BY distance
LIMIT {k:UInt32};

-- compare_rounds(concept, before, after, k): the images that moved into the k nearest between two rounds, and those that
-- moved out, with the probability of each under both; of either kind the one farthest up comes first. An image that is just as near as
-- the last of the k did not move.
-- Example: SELECT moved, count() FROM compare_rounds(concept = 'circles', before = 0, after = 1, k = 20) GROUP BY moved
CREATE OR REPLACE VIEW compare_rounds AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {before:Int64}))) AS first,
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM classifier_at(concept = {concept:String}, round = {after:Int64}))) AS second,
    old AS (SELECT id FROM nearest_ids(concept = {concept:String}, round = {before:Int64}, k = {k:UInt32})),
    new AS (SELECT id FROM nearest_ids(concept = {concept:String}, round = {after:Int64}, k = {k:UInt32}))
SELECT id, source, dataset, if(is_new, 'in', 'out') AS moved,
    vdx_sigmoid(first.2 * cosine_before + first.3) AS probability_before,
    vdx_sigmoid(second.2 * cosine_after + second.3) AS probability_after
FROM
(
    SELECT id, source, dataset, id GLOBAL IN (SELECT id FROM old) AS is_old, id GLOBAL IN (SELECT id FROM new) AS is_new,
        dotProduct(vector, first.1) AS cosine_before, dotProduct(vector, second.1) AS cosine_after,
        min(if(is_old, cosine_before, NULL)) OVER () AS last_before, min(if(is_new, cosine_after, NULL)) OVER () AS last_after
    FROM current_images
    WHERE is_old OR is_new
)
WHERE (is_new AND NOT is_old AND cosine_before < last_before) OR (is_old AND NOT is_new AND cosine_after < last_after)
ORDER BY moved, if(is_new, cosine_after, cosine_before) DESC, id;

-- round_changes(concept, k): what a concept's latest round did, in one row: how many images moved into and out of the k nearest (or of
-- all, where there are fewer), the cross-validated average precision with its 95 % interval beside the text vector's, why little moved
-- where fewer than one in ten did, and what to mark next. `before` is NULL where there is one round only. The images themselves:
-- compare_rounds(before = -2, after = -1). The interval knows of chance among the labels and of nothing else: they were not
-- drawn at random.
-- Example: SELECT moved_in, moved_out, average_precision, why, next_step FROM round_changes(concept = 'circles', k = 100)
CREATE OR REPLACE VIEW round_changes AS
WITH
    (
        SELECT arraySlice(arrayReverseSort(groupArray((round, at))), 1, 2)
        FROM (SELECT round, max(created_at) AS at FROM classifiers WHERE concept = {concept:String} GROUP BY round)
    ) AS latest,
    latest[2] AS previous,
    (
        SELECT (countIf(found.1 AND NOT found.2), countIf(NOT found.1 AND NOT found.2), countIf(at > previous.2))
        FROM
        (
            SELECT argMax((positive, withdrawn), labelled_at) AS found, max(labelled_at) AS at
            FROM labels
            WHERE concept = {concept:String} AND labelled_at <= latest[1].2
                AND image_id GLOBAL IN (SELECT id FROM current_images WHERE id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String}))
            GROUP BY image_id
        )
    ) AS judged,
    (
        SELECT (countIf(moved = 'in'), countIf(moved = 'out'))
        FROM compare_rounds(concept = {concept:String}, before = -2, after = -1, k = {k:UInt32})
    ) AS moves,
    (SELECT sum(images) FROM held_models) AS images,
    vdx_average_precision_interval(average_precision, least(150, judged.1)) AS interval -- refine takes 150 of a kind
SELECT
    round,
    if(length(latest) = 2, previous.1, NULL) AS before,
    method,
    labels,
    average_precision,
    interval.1 AS average_precision_low,
    interval.2 AS average_precision_high,
    text_average_precision,
    toUInt32(least({k:UInt32}, images)) AS top,
    moves.1 AS moved_in,
    moves.2 AS moved_out,
    multiIf(
        before IS NULL, 'no round yet: this is the order that the concept began with',
        method = 'revert', 'this round repeats an earlier one',
        moved_in >= top / 10 AND moved_in > 0, '',
        images <= {k:UInt32}, format('all {} images are among the {} nearest, so none can move', toString(images), toString({k:UInt32})),
        judged.1 = 0, 'no image is marked yes, so the order stays the one that the concept began with',
        judged.3 = 0, 'no label came since the round before',
        labels < 10, format('{} labels are few: until there are more, the round is held near the order that the concept began with', toString(labels)),
        average_precision < text_average_precision, format(
            'on labels held out from training the text ranks better ({} against {}), so the round is held near it',
            toString(round(assumeNotNull(text_average_precision), 2)), toString(round(assumeNotNull(average_precision), 2))),
        'the new labels agree with the order that was there') AS why,
    multiIf(
        judged.1 = 0, 'mark an image yes that shows what is meant: one of the nearest, or one that another search finds',
        judged.2 = 0, 'mark images no: the nearest that do not show what is meant',
        before IS NULL, 'refine',
        judged.3 = 0 OR labels < 10 OR average_precision < text_average_precision,
            'mark ten or more of what to label next, above all the uncertain ones: their probability is near 0.5',
        why != '', 'mark the uncertain ones of what to label next; where they are what their probability says, the concept is done',
        'look at what moved in, mark what is wrong no, then go on with what to label next') AS next_step
FROM classifier_at(concept = {concept:String}, round = -1);

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
