-- Few-shot refinement: start from a text vector, search, mark near misses, take a round of training, search again.

-- current_labels: the judgement that counts for each concept and image; what was withdrawn is left out.
-- Example: SELECT concept, countIf(positive), countIf(NOT positive) FROM current_labels GROUP BY concept
CREATE OR REPLACE VIEW current_labels AS
SELECT concept, image_id, latest.1 AS positive
FROM (SELECT concept, image_id, argMax((positive, withdrawn), labelled_at) AS latest FROM labels GROUP BY concept, image_id)
WHERE NOT latest.2;

-- current_classifiers: each concept's latest round.
-- Example: SELECT concept, round FROM current_classifiers
CREATE OR REPLACE VIEW current_classifiers AS
SELECT * FROM classifiers ORDER BY concept, round DESC, created_at DESC LIMIT 1 BY concept;

-- current_weight(concept): the latest round of a concept; an error where it was never started, or where images holds vectors
-- of another model than the concept's.
-- Example: SELECT round, length(weight) FROM current_weight(concept = 'circles')
CREATE OR REPLACE VIEW current_weight AS
SELECT latest.round AS round, latest.weight AS weight, latest.logit_scale AS logit_scale, latest.bias AS bias, latest.uncertainty AS uncertainty
FROM
(
    SELECT count() AS rounds, argMax((round, weight, logit_scale, bias, uncertainty, weights_hash, model), (round, created_at))::Tuple(
        round UInt32, weight Array(Float32), logit_scale Float64, bias Float64,
        uncertainty Tuple(scale Float64, covariance Float64, bias Float64), weights_hash String, model String) AS latest
    FROM classifiers
    WHERE concept = {concept:String}
) AS trained
CROSS JOIN (SELECT groupArray((weights_hash::String, model::String)) AS held FROM held_models) AS known
WHERE NOT throwIf(rounds = 0, 'this concept has no classifier yet: INSERT INTO classifiers SELECT * FROM start_concept(concept = ..., prompt = ...)')
    AND NOT throwIf(
        latest.weights_hash != '' AND arrayExists(other -> other.1 != latest.weights_hash AND (other.1 != '' OR other.2 != latest.model), held),
        'images holds vectors of another model than this concept was trained on, and they do not compare (SELECT DISTINCT model,'
        || ' weights_hash FROM images): start the concept again under another name, or delete the other images');

-- random_images(seed, n): n images at random, always the same for a seed and table: those whose ids, hashes themselves,
-- come next after the seed's hash. Reads no more than n rows a part.
-- Example: SELECT id FROM random_images(seed = 'any text', n = 5)
CREATE OR REPLACE VIEW random_images AS
SELECT id
FROM
(
    SELECT id, 0 AS turn FROM current_images WHERE id >= sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
    UNION ALL
    SELECT id, 1 AS turn FROM current_images WHERE id < sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
)
ORDER BY turn, id
LIMIT {n:UInt32};

-- start_near(concept, method, vector, image_id, logit_scale): what the next three share: round 0 from the vector of the image
-- or, where image_id is 0, the vector given.
-- Example: SELECT logit_scale, bias FROM start_near(concept = 'circles', method = 'text', vector = encode_text('a circle'), image_id = 0, logit_scale = 100)
CREATE OR REPLACE VIEW start_near AS
WITH
    (
        SELECT if(
            {image_id:UInt64} = 0,
            {vector:Array(Float32)},
            (
                SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
                HAVING NOT throwIf({image_id:UInt64} != 0 AND count() = 0, 'no image has this image_id')
            ))
    ) AS target,
    (
        SELECT groupArray(toFloat64(dotProduct(vector, vdx_normalize(target))))
        FROM current_images
        WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = 200))
    ) AS cosines,
    vdx_first_logit(cosines, {logit_scale:Float64}) AS logit
SELECT {concept:String} AS concept, 0::UInt32 AS round, {method:String} AS method, assumeNotNull(target) AS weight,
    assumeNotNull(logit.1) AS logit_scale, assumeNotNull(logit.2) AS bias, (0., 0., 0.) AS uncertainty, 0::UInt32 AS labels,
    NULL AS freedom, NULL AS average_precision, NULL AS text_average_precision,
    '' AS model, '' AS weights_hash, now64(6) AS created_at;

-- start_concept(concept, prompt): round 0 of a concept, the text vector of a prompt.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')
CREATE OR REPLACE VIEW start_concept AS
WITH encoder_info() AS encoder
SELECT concept, round, method, weight, logit_scale, bias, uncertainty, labels, freedom, average_precision, text_average_precision,
    encoder['model'] AS model, encoder['weights_hash'] AS weights_hash, created_at
FROM start_near(concept = {concept:String}, method = 'text', vector = encode_text({prompt:String}), image_id = 0,
    logit_scale = toFloat64(encoder_info()['logit_scale']));

-- start_concept_from(concept, vector): round 0 from any vector, for example a picture's; it stands where a text vector would.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'like this', vector = encode_text('a circle'))
CREATE OR REPLACE VIEW start_concept_from AS
SELECT *
FROM start_near(concept = {concept:String}, method = 'vector', vector = {vector:Array(Float32)}, image_id = 0, logit_scale = 100);

-- start_concept_like(concept, image_id): round 0 from an image of the table.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept_like(concept = 'like this', image_id = 42)
CREATE OR REPLACE VIEW start_concept_like AS
SELECT *
FROM start_near(concept = {concept:String}, method = 'vector', vector = CAST([], 'Array(Float32)'), image_id = {image_id:UInt64},
    logit_scale = 100);

-- fit(concept, steps, learning_rate): the next round by the published recipe, gradient steps on a concept's labels from its
-- current weight, without bias, anchor or calibration. As published: steps = 5, learning_rate = 0.1.
-- Example: INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)
CREATE OR REPLACE VIEW fit AS
WITH
    (SELECT (round, weight) FROM current_weight(concept = {concept:String})) AS current,
    (SELECT (any(model), any(weights_hash)) FROM current_classifiers WHERE concept = {concept:String}) AS trained_on,
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))
        FROM labelled_vectors(concept = {concept:String})
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
    1. AS logit_scale, 0. AS bias, (0., 0., 0.) AS uncertainty,
    toUInt32(length(samples.2)) AS labels,
    NULL AS freedom, NULL AS average_precision, NULL AS text_average_precision,
    assumeNotNull(trained_on.1) AS model, assumeNotNull(trained_on.2) AS weights_hash,
    now64(6) AS created_at;

-- labelled_vectors(concept): the judged images of a concept with their vectors, positives first, in an order of their own.
-- Example: SELECT id, positive, length(vector) FROM labelled_vectors(concept = 'circles')
CREATE OR REPLACE VIEW labelled_vectors AS
SELECT id, any(positive) AS positive, any(vector) AS vector
FROM current_images
GLOBAL INNER JOIN (SELECT image_id, positive FROM current_labels WHERE concept = {concept:String}) AS judged ON image_id = id
WHERE id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String})
GROUP BY id
ORDER BY positive DESC, sipHash64(id);

-- refine(concept): the next round of a concept by anchored logistic regression on all its labels.
--
-- With z the cosine to the text vector in standard deviations over 100 random images, and r the vector less their mean, over
-- its typical length, the logit is (k + a) z + r'v + bias: k is round 0's logit scale, a has variance 1, v variance `freedom`
-- a direction, the bias 4. The prior has the weight of one label, so it fades as labels come in. The random images are negatives
-- that together count as many as there are labels; then positives and negatives are made to count the same. Of more than 150
-- labels of a kind 150 are taken, always the same at random; the column labels says how many were used.
-- freedom is 0 (the text vector), 1, 4, 16 or 64, by five-fold cross-validation: a larger one is taken where the log-loss
-- falls by more than its standard error and average precision rises; from 4 on only where that is 0.03 above the text
-- vector's, beyond a tenth of the number of labels 0.1 above. Where nothing beats the text vector it stays.
-- Logit scale and bias are then calibrated on the held-out logits of the labels alone (Platt 1999), for which
-- slope and offset have standard deviations of 1 and 2; `uncertainty` is the covariance of that fit.
-- Example: INSERT INTO classifiers SELECT * FROM refine(concept = 'circles')
CREATE OR REPLACE VIEW refine AS
WITH
    (SELECT round FROM current_weight(concept = {concept:String})) AS latest,
    (
        SELECT argMin((vdx_normalize(weight), logit_scale, model, weights_hash), (round, created_at))
            ::Tuple(text Array(Float32), logit_scale Float64, model String, weights_hash String)
        FROM classifiers
        WHERE concept = {concept:String}
    ) AS start,
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))::Tuple(vectors Array(Array(Float32)), labels Array(Float64))
        FROM (SELECT vector, positive FROM labelled_vectors(concept = {concept:String}) LIMIT 150 BY positive)
    ) AS judged,
    (
        SELECT groupArray(vector)
        FROM
        (
            SELECT any(vector) AS vector
            FROM current_images
            WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = 100))
                AND id GLOBAL NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
            GROUP BY id
            ORDER BY sipHash64(id)
        )
    ) AS random,
    samples AS
    (
        SELECT
            arrayConcat(judged.vectors, random) AS vectors,
            arrayConcat(judged.labels, arrayMap(vector -> 0., random)) AS labels,
            length(judged.vectors) AS judged_rows,
            if(empty(random), judged.vectors, random) AS backdrop,
            arrayReduce('avgForEach', backdrop) AS centre,
            arrayMap(vector -> dotProduct(vector, start.text)::Float64, vectors) AS cosines,
            arrayMap(vector -> dotProduct(vector, start.text)::Float64, backdrop) AS backdrop_cosines,
            arrayAvg(backdrop_cosines) AS mean,
            greatest(1e-6, arrayReduce('stddevPop', backdrop_cosines)) AS deviation,
            arrayMap(cosine -> (cosine - mean) / deviation, cosines) AS z,
            assumeNotNull(start.logit_scale) * deviation AS slope,
            arrayMap(x -> slope * (x - 2), z) AS prior,
            arrayMap(vector -> dotProduct(vector, centre)::Float64, vectors) AS to_centre,
            dotProduct(centre, centre)::Float64 AS centre_square,
            greatest(1e-6, arrayAvg(arrayMap(vector -> dotProduct(vector, vector)::Float64, backdrop)) - centre_square) AS spread,
            -- Inner products of the centred vectors.
            arrayMap((a, a_centre) -> arrayMap(
                (b, b_centre) -> (dotProduct(a, b) - a_centre - b_centre + centre_square) / spread, vectors, to_centre),
                vectors, to_centre) AS products,
            arraySum(judged.labels) AS positives,
            if(empty(random), 0, greatest(5, judged_rows) / length(random)) AS random_cost,
            judged_rows / 2 / positives AS positive_cost,
            judged_rows / 2 / (judged_rows - positives + random_cost * length(random)) AS negative_cost,
            arrayMap(
                (label, row) -> least(5, if(label > 0.5, positive_cost, negative_cost * if(row > judged_rows, random_cost, 1))),
                labels, arrayEnumerate(labels)) AS costs
    ),
    -- Every candidate fitted five times without a fifth of the rows, and once (fold 5) with all of them.
    fits AS
    (
        SELECT
            freedom,
            fold,
            arrayMap(
                (row, z_row) -> arrayMap((product, z_column) -> freedom * product + z_row * z_column + 4, row, z),
                products, z) AS kernel,
            vdx_anchored_fit(kernel, prior, labels, arrayMap((cost, row) -> if(row % 5 = fold, 0., cost), costs, arrayEnumerate(costs)))
                AS coefficients,
            arrayMap((row, start) -> start + dotProduct(row, coefficients), kernel, prior) AS logits,
            (labels, costs, z, judged_rows, slope, mean, deviation, spread, centre)::Tuple(
                labels Array(Float64), costs Array(Float64), z Array(Float64), judged UInt64, slope Float64, mean Float64,
                deviation Float64, spread Float64, centre Array(Float64)) AS sample
        FROM samples
        ARRAY JOIN arrayFilter(freedom -> freedom <= 0.9 * judged_rows * (positives > 0), [0., 1., 4., 16., 64.]) AS freedom
        ARRAY JOIN range(6) AS fold
    ),
    candidates AS
    (
        SELECT
            freedom,
            any(sample) AS known,
            anyIf(coefficients, fold = 5) AS coefficients,
            arrayMap(pair -> pair.2, arraySort(groupArrayIf((fold, logits), fold < 5))) AS by_fold,
            arrayMap(row -> by_fold[row % 5 + 1][row], arrayEnumerate(known.labels)) AS held_out,
            arrayMap((logit, label, cost) -> cost * vdx_log_loss(logit, label), held_out, known.labels, known.costs) AS losses,
            vdx_average_precision(known.labels, if(freedom = 0, known.z, held_out)) AS average_precision
        FROM fits
        GROUP BY freedom
    ),
    -- Up the ladder of freedoms as long as each step pays.
    ladder AS
    (
        SELECT
            arraySort(rung -> rung.1, groupArray((freedom, average_precision, losses, coefficients, held_out)))::Array(Tuple(
                freedom Float64, average_precision Float64, losses Array(Float64), coefficients Array(Float64), held_out Array(Float64)))
                AS rungs,
            any(known) AS sample,
            arrayFold(
                (best, next) -> if(
                    arrayMap(
                        gains -> arraySum(gains) > sqrt(dotProduct(gains, gains)),
                        [arrayMap((before, after) -> before - after, rungs.losses[best], rungs.losses[next])])[1]
                    AND rungs.average_precision[next] > rungs.average_precision[best]
                    AND rungs.average_precision[next] - rungs.average_precision[1] >=
                        multiIf(rungs.freedom[next] <= 1, 0, rungs.freedom[next] <= sample.judged / 10, 0.03, 0.1),
                    next, best),
                arraySlice(arrayEnumerate(rungs), 2), toUInt32(1)) AS best
        FROM candidates
    ),
    -- Platt's calibration of the labels' held-out logits, by Newton's method: 20 steps from slope 1 and offset 0.
    calibrated AS
    (
        SELECT
            sample,
            rungs[best].freedom AS chosen_freedom,
            rungs[best].coefficients AS coefficients,
            rungs[best].average_precision AS average_precision,
            rungs[1].average_precision AS text_average_precision,
            arrayFold(
                (line, step) -> vdx_platt_step(line, arraySlice(rungs[best].held_out, 1, sample.judged), arraySlice(sample.labels, 1, sample.judged)),
                range(20), (1., 0., 0., 0., 0.))
                ::Tuple(slope Float64, offset Float64, slope_variance Float64, covariance Float64, offset_variance Float64) AS platt
        FROM ladder
    ),
    -- Back from coefficients to a weight and a bias.
    linear AS
    (
        SELECT
            *,
            sample.slope AS slope, sample.mean AS mean, sample.deviation AS deviation, sample.spread AS spread, sample.centre AS centre,
            arraySum(coefficients) AS total,
            arrayReduce('sumForEach', arrayMap((vector, x) -> vector * x, arrayConcat(judged.vectors, random), coefficients)) AS mixed,
            slope + dotProduct(sample.z, coefficients) AS text_slope,
            if(chosen_freedom = 0, greatest(text_slope, slope / 10), text_slope) / deviation AS text_scale,
            start.text * text_scale + (mixed - centre * total) * (chosen_freedom / spread) AS direction,
            L2Norm(direction) AS size,
            4 * total - 2 * slope - text_scale * mean - chosen_freedom / spread * (dotProduct(mixed, centre) - total * dotProduct(centre, centre))
                AS offset
        FROM calibrated
    )
SELECT
    {concept:String} AS concept,
    toUInt32(latest + 1) AS round,
    if(chosen_freedom = 0, 'text kept', 'anchored') AS method,
    (direction / size)::Array(Float32) AS weight,
    greatest(platt.slope, 0.05) * size AS logit_scale,
    greatest(platt.slope, 0.05) * offset + platt.offset AS bias,
    (
        size * size * platt.slope_variance,
        size * (offset * platt.slope_variance + platt.covariance),
        offset * offset * platt.slope_variance + 2 * offset * platt.covariance + platt.offset_variance
    ) AS uncertainty,
    toUInt32(sample.judged) AS labels,
    chosen_freedom AS freedom,
    -- Without a yes among the labels there is none.
    if(isFinite(average_precision), average_precision, NULL)::Nullable(Float32) AS average_precision,
    if(isFinite(text_average_precision), text_average_precision, NULL)::Nullable(Float32) AS text_average_precision,
    assumeNotNull(start.model) AS model,
    assumeNotNull(start.weights_hash) AS weights_hash,
    now64(6) AS created_at
FROM linear
WHERE NOT throwIf(empty(judged.vectors), 'this concept has no labels yet: INSERT INTO labels (concept, image_id, positive) VALUES (...)');

-- next_to_label_mix(concept, k, top, uncertain, diverse, random): k unjudged images to judge next, in these proportions: the
-- nearest to the current weight; of the 30 k nearest those whose probability is closest to 0.5; of the 5 k nearest those
-- least like what was judged or is in the list; and any. Each with its reason; none with a cosine of 0.995 or more to
-- one of the last 1000 that were judged or to one in the list. Far from the top the threshold's estimate rests on the random.
-- Example: SELECT * FROM next_to_label_mix(concept = 'circles', k = 9, top = 1, uncertain = 1, diverse = 1, random = 0)
CREATE OR REPLACE VIEW next_to_label_mix AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current,
    [{top:Float64}, {uncertain:Float64}, {diverse:Float64}, {random:Float64}] AS shares,
    arrayMap(part -> toUInt32(round({k:UInt32} * part / arraySum(shares))), arrayCumSum(shares)) AS marks,
    arrayDifference(arrayPushFront(marks, 0)) AS quotas, -- after a first 0
    judged AS (SELECT image_id FROM current_labels WHERE concept = {concept:String}),
    -- Others after every label: random_images with a seed that counts them, which a view's argument cannot.
    (SELECT sipHash64({concept:String} || toString(count())) FROM labels WHERE concept = {concept:String}) AS seed,
    any_images AS
    (
        SELECT id
        FROM
        (
            SELECT id, 0 AS turn FROM current_images WHERE id >= seed ORDER BY id LIMIT 3 * {k:UInt32}
            UNION ALL
            SELECT id, 1 AS turn FROM current_images WHERE id < seed ORDER BY id LIMIT 3 * {k:UInt32}
        )
        WHERE quotas[5] > 0
        ORDER BY turn, id
        LIMIT 3 * {k:UInt32}
    ),
    near AS
    (
        SELECT
            groupArray(id) AS ids,
            arraySlice(arraySort((one, logit) -> abs(logit), ids, groupArray(current.2 * (1 - distance) + current.3)), 1, 3 * quotas[3])
                AS uncertain,
            arrayConcat(arraySlice(ids, 1, {k:UInt32} * if(quotas[4] > 0, 5, 3)), uncertain) AS near_ids
        FROM
        (
            SELECT id, loaded_at, _row_exists, cosineDistance(vector, (SELECT current.1)) AS distance
            FROM images
            ORDER BY distance
            LIMIT (SELECT count() + 30 * {k:UInt32} FROM labels WHERE concept = {concept:String} SETTINGS apply_deleted_mask = 1)
                + (SELECT hidden FROM hidden_rows)
            SETTINGS apply_deleted_mask = 0
        )
        WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images) AND id NOT IN (SELECT image_id FROM judged)
    ),
    compared_to AS
    (
        SELECT image_id FROM labels WHERE concept = {concept:String} GROUP BY image_id ORDER BY max(labelled_at) DESC LIMIT 1000
    ),
    candidates AS
    (
        SELECT
            groupArrayIf(id, is_new) AS ids,
            groupArrayIf(vector, is_new) AS vectors,
            groupArrayIf((source, dataset, distance), is_new) AS known,
            groupArrayIf(vector, NOT is_new) AS judged_vectors,
            arraySort(groupArrayIf(id, is_random)) AS random_ids, -- or threads would decide which of them are taken
            arraySort((one, distance) -> distance, groupArrayIf(id, is_near), groupArrayIf(distance, is_near)) AS near_ids,
            arraySort((one, logit) -> logit, groupArrayIf(id, is_near), groupArrayIf(abs(current.2 * (1 - distance) + current.3), is_near))
                AS uncertain_ids,
            arraySlice(near_ids, 1, 3 * {k:UInt32}) AS top_ids,
            arraySlice(near_ids, 1, 5 * {k:UInt32}) AS diverse_ids
        FROM
        (
            SELECT id, source, dataset, vector, cosineDistance(vector, current.1) AS distance,
                id GLOBAL NOT IN (SELECT image_id FROM judged) AS is_new,
                is_new AND id GLOBAL IN (SELECT id FROM any_images) AS is_random,
                -- A random one may be among the nearest too: no farther than the farthest of those.
                max(if(is_new AND NOT is_random, distance, NULL)) OVER () AS farthest,
                is_new AND (NOT is_random OR distance <= ifNull(farthest, 2)) AS is_near
            FROM current_images
            WHERE id GLOBAL IN (SELECT arrayJoin(near_ids) FROM near) OR id GLOBAL IN (SELECT image_id FROM compared_to) OR id GLOBAL IN (SELECT id FROM any_images)
            LIMIT 1 BY id
        )
    ),
    compared AS
    (
        SELECT
            *,
            arrayMap(a -> arrayMap(b -> dotProduct(a, b), vectors), vectors) AS cosines,
            -- The largest cosine to what was judged, and the candidates that are near duplicates of each.
            arrayMap(a -> arrayMax(arrayPushBack(arrayMap(b -> dotProduct(a, b), judged_vectors), -1)), vectors) AS to_judged,
            arrayMap((row, own) -> arrayFilter((other, cosine) -> cosine >= 0.995 AND other != own, ids, row), cosines, ids) AS twins,
            arrayFilter((one, cosine) -> cosine >= 0.995, ids, to_judged) AS stale
        FROM candidates
    ),
    taken AS
    (
        SELECT
            ids,
            known,
            -- What may be taken, in this order: (id, reason).
            arrayConcat(
                arrayMap(id -> (id, 1), top_ids),
                arrayMap(id -> (id, 2), arraySlice(uncertain_ids, 1, quotas[2] + 3 * quotas[3])),
                arrayMap(id -> (id, 4), random_ids)) AS offers,
            arrayFold(
                (list, offer) -> if(
                    countEqual(list.2, offer.2) >= quotas[offer.2 + 1]
                        OR has(list.1, offer.1)
                        OR has(stale, offer.1)
                        OR hasAny(twins[indexOf(ids, offer.1)], list.1),
                    list, arrayPushBack(list, offer)),
                offers, CAST([], 'Array(Tuple(UInt64, UInt8))')) AS first,
            -- Each time the one whose largest cosine to what is judged or in the list is the least.
            arrayFold(
                (list, turn) -> arrayMap(
                    best -> if(best.2 >= 0.995 OR empty(ids), list, arrayPushBack(list, (best.1, 3))),
                    [arraySort(pair -> pair.2, arrayMap(
                        (id, row, judged_cosine) -> (id, if(
                            has(diverse_ids, id) AND NOT has(list.1, id),
                            greatest(judged_cosine, arrayMax(arrayMap((cosine, other) -> if(has(list.1, other), cosine, -1), row, ids))),
                            2)),
                        ids, cosines, to_judged))[1]])[1],
                range(toUInt32(quotas[4])), first) AS second,
            arrayFold(
                (list, id) -> if(
                    length(list) >= {k:UInt32}
                        OR has(list.1, id)
                        OR has(stale, id)
                        OR hasAny(twins[indexOf(ids, id)], list.1),
                    list, arrayPushBack(list, (id, 1))),
                top_ids, second) AS list
        FROM compared
    )
SELECT
    pick.1 AS id, found.1 AS source, found.2 AS dataset, found.3 AS distance,
    vdx_sigmoid(current.2 * (1 - distance) + current.3) AS probability,
    ['top', 'uncertain', 'diverse', 'random'][pick.2] AS reason
FROM (SELECT arrayJoin(list) AS pick, known[indexOf(ids, pick.1)] AS found FROM taken)
ORDER BY pick.2, distance;

-- next_to_label(concept, k): k unjudged images to judge next, with the reason of each: 4 in 10 the top of the ranking, 3
-- uncertain, 1 diverse, 2 random.
-- Example: SELECT * FROM next_to_label(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW next_to_label AS
SELECT * FROM next_to_label_mix(concept = {concept:String}, k = {k:UInt32}, top = 4, uncertain = 3, diverse = 1, random = 2);

-- search_concept(concept, k): the k unjudged images nearest to a concept's current weight, through the vector index up to
-- k and judged images = 1000 together. Those that are wrong are the hard negatives.
-- Example: SELECT * FROM search_concept(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW search_concept AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, loaded_at, _row_exists,
        cosineDistance(vector, (SELECT weight FROM current_weight(concept = {concept:String}) SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT count() FROM current_labels WHERE concept = {concept:String} SETTINGS apply_deleted_mask = 1)
        + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND id NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
ORDER BY distance
LIMIT {k:UInt32};

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
SELECT id, source, dataset, vdx_sigmoid(logit_scale * (1 - distance) + bias) AS probability
FROM search_near_where(vector = CAST([], 'Array(Float32)'), concept = {concept:String}, image_id = 0, dataset = {dataset:String},
    attribute = {attribute:String}, value = {value:String}, k = {k:UInt32})
CROSS JOIN (SELECT logit_scale, bias FROM current_weight(concept = {concept:String})) AS logit
ORDER BY distance;

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

-- threshold(concept, precision): the least probability from which on the images are expected to be right as often as wanted,
-- how many those are, how many of them are right, and 90 % intervals; NULL and 0 where no threshold reaches it.
--
-- It adds up the calibrated probabilities of all images. The calibration rests on labels that were chosen by their scores
-- or at random, never by what they show, so at any one score the judged images speak for the others. The intervals
-- are those of 200 draws of logit scale and bias from their `uncertainty`; they hold no other doubt.
-- Example: SELECT threshold, images, expected_precision FROM threshold(concept = 'circles', precision = 0.9)
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
            arrayLastIndex((found, rows) -> found / rows >= {precision:Float64}, right_cuts, above_cuts) AS at,
            arrayMap(row -> row[at], groupArrayIf(right, draw > 0)) AS drawn
        FROM draws
    )
SELECT
    if(at = 0, NULL, vdx_sigmoid(cuts[at] - 0.05)) AS threshold,
    above_cuts[at] AS images,
    right_cuts[at] AS expected_right,
    arrayReduce('quantile(0.05)', drawn) AS right_low,
    arrayReduce('quantile(0.95)', drawn) AS right_high,
    if(at = 0, NULL, expected_right / images) AS expected_precision,
    if(at = 0, NULL, right_low / images) AS precision_low,
    if(at = 0, NULL, right_high / images) AS precision_high
FROM cut;

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
