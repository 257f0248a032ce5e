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
WITH
    (
        SELECT (count(), argMax((round, weight, logit_scale, bias, uncertainty, weights_hash, model), (round, created_at)))
        FROM classifiers
        WHERE concept = {concept:String}
    ) AS found,
    (
        SELECT groupArrayIf(
            format('{} (weights {})', if(model = '', 'a model that is not named', model), if(weights_hash = '', 'unknown', weights_hash)),
            found.2.6 != '' AND weights_hash != found.2.6 AND (weights_hash != '' OR model != found.2.7))
        FROM (SELECT model, weights_hash FROM images GROUP BY model, weights_hash)
    ) AS others
SELECT found.2.1 AS round, found.2.2 AS weight, found.2.3 AS logit_scale, found.2.4 AS bias, found.2.5 AS uncertainty
WHERE NOT throwIf(found.1 = 0, 'this concept has no classifier yet: INSERT INTO classifiers SELECT * FROM start_concept(concept = ..., prompt = ...)')
    AND NOT throwIf(notEmpty(others), format(
        'the concept was trained on vectors of {} (weights {}), but images holds vectors of {} too, which do not compare: start'
        || ' the concept again under another name, or delete the other images', found.2.7, found.2.6, arrayStringConcat(others, ', ')));

-- random_images(seed, n): n images at random, always the same for a seed and table: those whose ids, hashes themselves,
-- come next after the seed's hash. Reads no more than n rows a part.
-- Example: SELECT id FROM random_images(seed = 'any text', n = 5)
CREATE OR REPLACE VIEW random_images AS
SELECT id
FROM
(
    SELECT DISTINCT id, 0 AS turn FROM images WHERE id >= sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
    UNION ALL
    SELECT DISTINCT id, 1 AS turn FROM images WHERE id < sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
)
ORDER BY turn, id
LIMIT {n:UInt32};

-- first_logit(concept, vector, logit_scale): logit scale and bias of a concept's round 0: 0.5 is the probability of a
-- picture two standard deviations above the mean of 200 random ones, and a standard deviation is a logit of 3 at most.
-- Example: SELECT logit_scale, bias FROM first_logit(concept = 'circles', vector = (SELECT encode_text('a circle')), logit_scale = 100)
CREATE OR REPLACE VIEW first_logit AS
SELECT
    if(deviation > 0, least({logit_scale:Float64}, 3 / deviation), {logit_scale:Float64}) AS logit_scale,
    -logit_scale * if(pictures > 0, mean + 2 * deviation, 0) AS bias
FROM
(
    SELECT avg(cosine) AS mean, stddevPop(cosine) AS deviation, count() AS pictures
    FROM
    (
        SELECT dotProduct(vector, vdx_normalize({vector:Array(Float32)})) AS cosine
        FROM images
        WHERE id IN (SELECT id FROM random_images(seed = {concept:String}, n = 200))
    )
);

-- start_concept(concept, prompt): round 0 of a concept, the text vector of a prompt.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')
CREATE OR REPLACE VIEW start_concept AS
WITH
    encoder_info() AS encoder,
    (
        SELECT (logit_scale, bias)
        FROM first_logit(concept = {concept:String}, vector = (SELECT encode_text({prompt:String})),
            logit_scale = (SELECT assumeNotNull(toFloat64(encoder_info()['logit_scale']))))
    ) AS logit
SELECT {concept:String} AS concept, 0::UInt32 AS round, 'text' AS method, encode_text({prompt:String}) AS weight,
    logit.1 AS logit_scale, logit.2 AS bias, (0., 0., 0.) AS uncertainty, 0::UInt32 AS labels, 0. AS freedom,
    nan::Float32 AS average_precision, nan::Float32 AS text_average_precision,
    encoder['model'] AS model, encoder['weights_hash'] AS weights_hash, now64(6) AS created_at;

-- start_concept_from(concept, vector): round 0 from any vector, for example a picture's; it stands where a text vector would.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'like this', vector = (SELECT any(vector) FROM images))
CREATE OR REPLACE VIEW start_concept_from AS
WITH
    (
        SELECT (logit_scale, bias)
        FROM first_logit(concept = {concept:String}, vector = (SELECT {vector:Array(Float32)}), logit_scale = 100)
    ) AS logit
SELECT {concept:String} AS concept, 0::UInt32 AS round, 'vector' AS method, {vector:Array(Float32)} AS weight,
    logit.1 AS logit_scale, logit.2 AS bias, (0., 0., 0.) AS uncertainty, 0::UInt32 AS labels, 0. AS freedom,
    nan::Float32 AS average_precision, nan::Float32 AS text_average_precision,
    '' AS model, '' AS weights_hash, now64(6) AS created_at;

-- fit(concept, steps, learning_rate): the next round by the published recipe, gradient steps on a concept's labels from its
-- current weight, without bias, anchor or calibration. As published: steps = 5, learning_rate = 0.1.
-- Example: INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)
CREATE OR REPLACE VIEW fit AS
WITH
    (SELECT (round, weight) FROM current_weight(concept = {concept:String})) AS current,
    (SELECT (any(model), any(weights_hash)) FROM current_classifiers WHERE concept = {concept:String}) AS trained_on,
    (SELECT (groupArray(vector), groupArray(toFloat64(positive))) FROM labelled_vectors(concept = {concept:String})) AS samples
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
    nan AS freedom, nan::Float32 AS average_precision, nan::Float32 AS text_average_precision,
    trained_on.1 AS model, trained_on.2 AS weights_hash,
    now64(6) AS created_at
WHERE NOT throwIf(empty(samples.1), 'this concept has no labels yet: INSERT INTO labels (concept, image_id, positive) VALUES (...)');

-- labelled_vectors(concept): the judged images of a concept with their vectors, positives first, in an order of their own.
-- Example: SELECT id, positive, length(vector) FROM labelled_vectors(concept = 'circles')
CREATE OR REPLACE VIEW labelled_vectors AS
SELECT id, any(positive) AS positive, any(vector) AS vector
FROM images
INNER JOIN (SELECT image_id, positive FROM current_labels WHERE concept = {concept:String}) AS judged ON image_id = id
WHERE id IN (SELECT image_id FROM labels WHERE concept = {concept:String})
GROUP BY id
ORDER BY positive DESC, sipHash64(id);

-- refine(concept): the next round of a concept by anchored logistic regression on all its labels.
--
-- With z the cosine to the text vector in standard deviations over 100 random images, and r the vector less their mean, over
-- its typical length, the logit is (k + a) z + r'v + bias: k is round 0's logit scale, a has variance 1, v variance `freedom`
-- a direction, the bias 4. The prior has the weight of one label, so it fades as labels come in; the random images
-- stand in as negatives that together weigh as much as the labels at most, and positives as much as negatives.
-- freedom is 0 (the text vector), 1, 4, 16 or 64, by five-fold cross-validation: a larger one is taken where the
-- log-loss falls (by more than its standard error, from 4 on) and average precision rises; above a tenth of the number of
-- labels only where average precision is 0.1 above the text vector's. Where nothing beats the text vector it stays.
-- Logit scale and bias are then calibrated on the held-out logits of the labels alone (Platt 1999), for which
-- slope and offset have standard deviations of 0.5 and 2; `uncertainty` is the covariance of that fit.
-- Example: INSERT INTO classifiers SELECT * FROM refine(concept = 'circles')
CREATE OR REPLACE VIEW refine AS
WITH
    (SELECT round FROM current_weight(concept = {concept:String})) AS latest,
    (
        SELECT argMin((vdx_normalize(weight), logit_scale, model, weights_hash), (round, created_at))
        FROM classifiers WHERE concept = {concept:String}
    ) AS start,
    (SELECT (groupArray(vector), groupArray(toFloat64(positive))) FROM labelled_vectors(concept = {concept:String})) AS judged,
    (
        SELECT groupArray(vector)
        FROM
        (
            SELECT any(vector) AS vector
            FROM images
            WHERE id IN (SELECT id FROM random_images(seed = {concept:String}, n = 100))
                AND id NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
            GROUP BY id
            ORDER BY sipHash64(id)
        )
    ) AS random,
    samples AS
    (
        SELECT
            arrayConcat(judged.1, random) AS vectors,
            arrayConcat(judged.2, arrayMap(vector -> 0., random)) AS labels,
            length(judged.1) AS judged_rows,
            if(empty(random), judged.1, random) AS backdrop,
            arrayReduce('avgForEach', backdrop) AS centre,
            arrayMap(vector -> dotProduct(vector, start.1)::Float64, vectors) AS cosines,
            arrayAvg(arrayMap(vector -> dotProduct(vector, start.1)::Float64, backdrop)) AS mean,
            greatest(1e-6, arrayReduce('stddevPop', arrayMap(vector -> dotProduct(vector, start.1)::Float64, backdrop))) AS deviation,
            arrayMap(cosine -> (cosine - mean) / deviation, cosines) AS z,
            assumeNotNull(start.2) * deviation AS slope,
            arrayMap(x -> slope * (x - 2), z) AS prior,
            arrayMap(vector -> dotProduct(vector, centre)::Float64, vectors) AS to_centre,
            dotProduct(centre, centre)::Float64 AS centre_square,
            greatest(1e-6, arrayAvg(arrayMap(vector -> dotProduct(vector, vector)::Float64, backdrop)) - centre_square) AS spread,
            -- Inner products of the centred vectors.
            arrayMap((a, a_centre) -> arrayMap(
                (b, b_centre) -> (dotProduct(a, b) - a_centre - b_centre + centre_square) / spread, vectors, to_centre),
                vectors, to_centre) AS products,
            arraySum(judged.2) AS positives,
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
            (labels, costs, z, judged_rows, slope, mean, deviation, spread, centre) AS shared
        FROM samples
        ARRAY JOIN arrayFilter(freedom -> freedom <= 0.9 * judged_rows * (positives > 0), [0., 1., 4., 16., 64.]) AS freedom
        ARRAY JOIN range(6) AS fold
    ),
    candidates AS
    (
        SELECT
            freedom,
            any(shared) AS known,
            anyIf(coefficients, fold = 5) AS coefficients,
            arrayMap(pair -> pair.2, arraySort(groupArrayIf((fold, logits), fold < 5))) AS by_fold,
            arrayMap(row -> by_fold[row % 5 + 1][row], arrayEnumerate(known.1)) AS held_out,
            arrayMap((logit, label, cost) -> cost * vdx_log_loss(logit, label), held_out, known.1, known.2) AS losses,
            vdx_average_precision(known.1, if(freedom = 0, known.3, held_out)) AS average_precision
        FROM fits
        GROUP BY freedom
    ),
    -- Up the ladder of freedoms as long as each step pays.
    ladder AS
    (
        SELECT
            arraySort(rung -> rung.1, groupArray((freedom, average_precision, losses, coefficients, held_out))) AS rungs,
            any(known) AS shared,
            arrayFold(
                (best, next) -> if(
                    arrayMap(
                        gains -> arraySum(gains) > if(rungs.1[next] > 1, sqrt(dotProduct(gains, gains)), 0),
                        [arrayMap((before, after) -> before - after, rungs.3[best], rungs.3[next])])[1]
                    AND (rungs.1[next] <= 1 OR rungs.2[next] > rungs.2[best])
                    AND (rungs.1[next] <= greatest(1, shared.4 / 10) OR rungs.2[next] >= rungs.2[1] + 0.1),
                    next, best),
                arraySlice(arrayEnumerate(rungs), 2), toUInt32(1)) AS best
        FROM candidates
    ),
    -- Platt's calibration of the labels' held-out logits, by Newton's method: 20 steps from slope 1 and offset 0.
    calibrated AS
    (
        SELECT
            shared,
            rungs[best].1 AS chosen_freedom,
            rungs[best].4 AS coefficients,
            rungs[best].2 AS average_precision,
            rungs[1].2 AS text_average_precision,
            arrayFold(
                (line, step) -> vdx_platt_step(line, arraySlice(rungs[best].5, 1, shared.4), arraySlice(shared.1, 1, shared.4)),
                range(20), (1., 0., 0., 0., 0.)) AS platt
        FROM ladder
    ),
    -- Back from coefficients to a weight and a bias.
    linear AS
    (
        SELECT
            *,
            shared.5 AS slope, shared.6 AS mean, shared.7 AS deviation, shared.8 AS spread, shared.9 AS centre,
            arraySum(coefficients) AS total,
            arrayReduce('sumForEach', arrayMap((vector, x) -> vector * x, arrayConcat(judged.1, random), coefficients)) AS mixed,
            slope + dotProduct(shared.3, coefficients) AS text_slope,
            if(chosen_freedom = 0, greatest(text_slope, slope / 10), text_slope) / deviation AS text_scale,
            start.1 * text_scale + (mixed - centre * total) * (chosen_freedom / spread) AS direction,
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
    greatest(platt.1, 0.05) * size AS logit_scale,
    greatest(platt.1, 0.05) * offset + platt.2 AS bias,
    (
        size * size * platt.3,
        size * (offset * platt.3 + platt.4),
        offset * offset * platt.3 + 2 * offset * platt.4 + platt.5
    ) AS uncertainty,
    toUInt32(shared.4) AS labels,
    chosen_freedom AS freedom,
    average_precision::Float32 AS average_precision,
    text_average_precision::Float32 AS text_average_precision,
    start.3 AS model,
    start.4 AS weights_hash,
    now64(6) AS created_at
FROM linear
WHERE NOT throwIf(empty(judged.1), 'this concept has no labels yet: INSERT INTO labels (concept, image_id, positive) VALUES (...)');

-- next_to_label_mix(concept, k, top, uncertain, diverse, random): k unjudged images to judge next, in these proportions: the
-- nearest to the current weight; of the 1000 nearest those whose probability is closest to 0.5; of the 10 k nearest those
-- least like what was judged or is in the list; and any. Each with its reason; none with a cosine of 0.995 or more to
-- one that was judged or is in the list. The random share is what the threshold's estimate rests on far from the top.
-- Example: SELECT * FROM next_to_label_mix(concept = 'circles', k = 9, top = 1, uncertain = 1, diverse = 1, random = 0)
CREATE OR REPLACE VIEW next_to_label_mix AS
WITH
    (SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String})) AS current,
    [{top:Float64}, {uncertain:Float64}, {diverse:Float64}, {random:Float64}] AS shares,
    arrayMap(part -> toUInt32(round({k:UInt32} * part / arraySum(shares))), arrayCumSum(shares)) AS marks,
    arrayDifference(arrayPushFront(marks, 0)) AS quotas, -- after a first 0
    judged AS (SELECT groupArray(image_id) AS judged_ids FROM current_labels WHERE concept = {concept:String}),
    near AS
    (
        SELECT
            groupArray(id) AS ids,
            arraySlice(ids, 1, 3 * {k:UInt32}) AS top_ids,
            arraySlice(arraySort((one, logit) -> abs(logit), ids, groupArray(current.2 * (1 - distance) + current.3)), 1, 3 * quotas[3])
                AS uncertain_ids,
            arraySlice(ids, 1, if(quotas[4] > 0, 10 * {k:UInt32}, 0)) AS diverse_ids
        FROM
        (
            SELECT id, cosineDistance(vector, (SELECT current.1)) AS distance
            FROM images
            ORDER BY distance
            LIMIT (SELECT if(count() + 3 * {k:UInt32} <= 1000, 1000, count() + 1000) FROM labels WHERE concept = {concept:String})
        )
        WHERE id NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
    ),
    any_images AS
    (
        SELECT groupArray(id) AS random_ids
        FROM random_images(seed = (SELECT {concept:String} || toString(count()) FROM labels WHERE concept = {concept:String}), n = 3 * {k:UInt32})
        WHERE quotas[5] > 0 AND id NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
    ),
    compared AS
    (
        SELECT
            groupArray(id) AS known_ids,
            groupArray((source, dataset, cosineDistance(vector, current.1))) AS known,
            groupArray(vector) AS vectors,
            arrayMap(a -> arrayMap(b -> dotProduct(a, b), vectors), vectors) AS cosines,
            arrayMap((row, own) -> arrayFilter((other, cosine) -> cosine >= 0.995 AND other != own, known_ids, row), cosines, known_ids)
                AS twins
        FROM
        (
            SELECT id, source, dataset, vector
            FROM images
            WHERE id IN (
                SELECT arrayJoin(arrayConcat(judged_ids, top_ids, uncertain_ids, diverse_ids, random_ids))
                FROM judged CROSS JOIN near CROSS JOIN any_images)
            LIMIT 1 BY id
        )
    ),
    taken AS
    (
        SELECT
            *,
            -- What may be taken, in this order: (id, reason).
            arrayConcat(
                arrayMap(id -> (id, 1), top_ids), arrayMap(id -> (id, 2), uncertain_ids), arrayMap(id -> (id, 4), random_ids)) AS offers,
            arrayFold(
                (list, offer) -> if(
                    countEqual(list.2, offer.2) >= quotas[offer.2 + 1]
                        OR has(list.1, offer.1)
                        OR hasAny(twins[indexOf(known_ids, offer.1)], arrayConcat(list.1, judged_ids)),
                    list, arrayPushBack(list, offer)),
                offers, CAST([], 'Array(Tuple(UInt64, UInt8))')) AS first,
            -- Each time the one whose largest cosine to what is judged or in the list is the least.
            arrayFold(
                (list, turn) -> arrayPushBack(list, (
                    arraySort(pair -> pair.2, arrayMap(
                        (id, row) -> (id, if(
                            has(diverse_ids, id) AND NOT has(list.1, id),
                            arrayMax(arrayMap((cosine, other) -> if(has(list.1, other) OR has(judged_ids, other), cosine, -1), row, known_ids)),
                            2)),
                        known_ids, cosines))[1].1, 3)),
                range(toUInt32(quotas[4])), first) AS second,
            arrayFold(
                (list, id) -> if(
                    length(list) >= {k:UInt32}
                        OR has(list.1, id)
                        OR hasAny(twins[indexOf(known_ids, id)], arrayConcat(list.1, judged_ids)),
                    list, arrayPushBack(list, (id, 1))),
                top_ids, second) AS list
        FROM compared CROSS JOIN judged CROSS JOIN near CROSS JOIN any_images
    )
SELECT
    pick.1 AS id, found.1 AS source, found.2 AS dataset, found.3 AS distance,
    vdx_sigmoid(current.2 * (1 - distance) + current.3) AS probability,
    ['top', 'uncertain', 'diverse', 'random'][pick.2] AS reason
FROM (SELECT arrayJoin(list) AS pick, known[indexOf(known_ids, pick.1)] AS found FROM taken)
ORDER BY pick.2, distance;

-- next_to_label(concept, k): k unjudged images to judge next, with the reason of each: 4 in 10 the top of the ranking, 3
-- uncertain, 1 diverse, 2 random. Those of the top that are wrong are the hard negatives.
-- Example: SELECT * FROM next_to_label(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW next_to_label AS
SELECT * FROM next_to_label_mix(concept = {concept:String}, k = {k:UInt32}, top = 4, uncertain = 3, diverse = 1, random = 2);
