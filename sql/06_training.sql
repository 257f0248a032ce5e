-- A round of training: few-shot refinement of a concept from its judged images.

-- labelled_vectors(concept): the judged images of a concept with their vectors, positives first, in an order of their own.
-- Example: SELECT id, positive, length(vector) FROM labelled_vectors(concept = 'circles')
CREATE OR REPLACE VIEW labelled_vectors AS
SELECT id, any(positive) AS positive, any(vector) AS vector
FROM current_images
GLOBAL INNER JOIN (SELECT image_id, positive FROM current_labels WHERE concept = {concept:String}) AS judged ON image_id = id
WHERE id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String})
GROUP BY id
ORDER BY positive DESC, sipHash64(id);

-- labelled_regions(concept): the same by parts, one a picture: of a yes the part that overlaps its box the most or, without a box, the best
-- one by the current weight; of a no the best one: where that is not it, none is (a latent variable of Felzenszwalb et al., Object
-- detection with discriminatively trained part-based models, 2010). A picture without regions is its own only part.
-- Example: SELECT id, positive, box FROM labelled_regions(concept = 'circles')
CREATE OR REPLACE VIEW labelled_regions AS
WITH (SELECT weight FROM current_weight(concept = {concept:String})) AS current
SELECT id, yes AS positive, best.2 AS vector, best.3 AS box
FROM
(
    SELECT id, any(positive) AS yes,
        argMax((place, part, area), if(positive AND marked.3 > 0, vdx_overlap(area, marked), dotProduct(part, current))) AS best
    FROM
    (
        SELECT image_id AS id, loaded_at, place, arrayPopBack(vector) AS part, box AS area
        FROM regions
        WHERE image_id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String})
        UNION ALL
        SELECT id, loaded_at, 0 AS place, vector AS part, vdx_box(0, 0, 1, 1) AS area
        FROM images
        WHERE id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String})
    ) AS parts
    GLOBAL INNER JOIN (SELECT image_id, positive, box AS marked FROM current_labels WHERE concept = {concept:String}) AS judged ON image_id = id
    WHERE (id, loaded_at) GLOBAL IN (
        SELECT id, loaded_at FROM current_images WHERE id GLOBAL IN (SELECT image_id FROM labels WHERE concept = {concept:String}))
    GROUP BY id
)
ORDER BY yes DESC, sipHash64(id);

-- random_regions(concept, n): of n random images the best part by the concept's current weight.
-- Example: SELECT id, box FROM random_regions(concept = 'circles', n = 5)
CREATE OR REPLACE VIEW random_regions AS
WITH (SELECT weight FROM current_weight(concept = {concept:String})) AS current
SELECT id, best.2 AS vector, best.3 AS box
FROM
(
    SELECT id, argMax((place, part, area), dotProduct(part, current)) AS best
    FROM
    (
        SELECT image_id AS id, loaded_at, place, arrayPopBack(vector) AS part, box AS area
        FROM regions
        WHERE image_id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = {n:UInt32}))
        UNION ALL
        SELECT id, loaded_at, 0 AS place, vector AS part, vdx_box(0, 0, 1, 1) AS area
        FROM images
        WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = {n:UInt32}))
    )
    WHERE (id, loaded_at) GLOBAL IN (
        SELECT id, loaded_at FROM current_images WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = {n:UInt32})))
    GROUP BY id
);

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
        HAVING NOT throwIf(count() = 0, 'this concept has no labels, or none whose pictures images holds: INSERT INTO labels (concept, image_id, positive) VALUES (...)')
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

-- refine(concept): the next round of a concept by anchored logistic regression on all its labels.
--
-- With z the cosine to the text vector in standard deviations over 100 random images, and r the vector less their mean, over
-- its typical length, the logit is (k / 2 + a) z + r'v + bias: k is round 0's logit scale, a has variance 1, v variance `freedom`
-- a direction, the bias 4. The prior has the weight of one label, so it fades as labels come in. The random images are negatives
-- that together count as many as there are labels; then positives and negatives are made to count the same. Of more than 150
-- labels of a kind 150 are taken, always the same at random; the column labels says how many were used.
-- freedom is 16, or 2 where the average precision of five-fold cross-validation is below the text vector's; without a yes among
-- the labels the text vector stays. Over 78 concepts, the mean of rounds 1 to 6: 16 alone .927 with the lowest 5 % of rounds .054 below
-- text, this .926 with .009, 2 alone .914; all of k .895, a quarter .923 (docs/refine.md).
-- Logit scale and bias are then calibrated on the held-out logits of the labels alone (Platt 1999), for which
-- slope and offset have standard deviations of 1 and 2; `uncertainty` is the covariance of that fit.
-- Example: INSERT INTO classifiers SELECT * FROM refine(concept = 'circles')
CREATE OR REPLACE VIEW refine AS
WITH
    (SELECT round FROM current_weight(concept = {concept:String})) AS latest,
    -- Rows rather than scalars: tens of thousands of numbers as constants of the statement take more than half of its time.
    start AS
    (
        SELECT argMin((vdx_normalize(weight), logit_scale, model, weights_hash), (round, created_at))
            ::Tuple(text Array(Float32), logit_scale Float64, model String, weights_hash String) AS start
        FROM classifiers
        WHERE concept = {concept:String}
    ),
    judged AS
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))::Tuple(vectors Array(Array(Float32)), labels Array(Float64)) AS judged
        FROM (SELECT vector, positive FROM labelled_vectors(concept = {concept:String}) LIMIT 150 BY positive)
        HAVING NOT throwIf(
            count() = 0, 'this concept has no labels, or none whose pictures images holds: INSERT INTO labels (concept, image_id, positive) VALUES (...)')
    ),
    random AS
    (
        SELECT groupArray(vector) AS random
        FROM
        (
            SELECT any(vector) AS vector
            FROM current_images
            WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = 100))
                AND id GLOBAL NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
            GROUP BY id
            ORDER BY sipHash64(id)
        )
    ),
    samples AS
    (
        SELECT
            start,
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
            assumeNotNull(start.logit_scale) * deviation / 2 AS slope,
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
        FROM judged CROSS JOIN random CROSS JOIN start
    ),
    -- Both freedoms fitted five times without a fifth of the rows, and once (fold 5) with all of them.
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
            arrayMap((row, begin) -> begin + dotProduct(row, coefficients), kernel, prior) AS logits,
            (labels, z, judged_rows, slope, mean, deviation, spread, centre, vectors, start)::Tuple(
                labels Array(Float64), z Array(Float64), judged UInt64, slope Float64, mean Float64, deviation Float64,
                spread Float64, centre Array(Float64), vectors Array(Array(Float32)),
                start Tuple(text Array(Float32), logit_scale Float64, model String, weights_hash String)) AS sample
        FROM samples
        ARRAY JOIN if(positives > 0, [2., 16.], [0.]) AS freedom
        ARRAY JOIN range(6) AS fold
    ),
    candidates AS
    (
        SELECT
            freedom,
            any(sample) AS sample,
            anyIf(coefficients, fold = 5) AS coefficients,
            arrayMap(pair -> pair.2, arraySort(groupArrayIf((fold, logits), fold < 5))) AS by_fold,
            arrayMap(row -> by_fold[row % 5 + 1][row], arrayEnumerate(sample.labels)) AS held_out,
            vdx_average_precision(sample.labels, if(freedom = 0, sample.z, held_out)) AS average_precision,
            vdx_average_precision(sample.labels, sample.z) AS text_average_precision
        FROM fits
        GROUP BY freedom
    ),
    -- Platt's calibration of the labels' held-out logits, by Newton's method: 20 steps from slope 1 and offset 0.
    calibrated AS
    (
        SELECT
            sample, freedom AS chosen_freedom, coefficients, average_precision, text_average_precision,
            arrayFold(
                (line, step) -> vdx_platt_step(line, arraySlice(held_out, 1, sample.judged), arraySlice(sample.labels, 1, sample.judged)),
                range(20), (1., 0., 0., 0., 0.))
                ::Tuple(slope Float64, offset Float64, slope_variance Float64, covariance Float64, offset_variance Float64) AS platt
        FROM candidates
        ORDER BY average_precision >= text_average_precision OR freedom < 16 DESC, freedom DESC
        LIMIT 1
    ),
    -- Back from coefficients to a weight and a bias.
    linear AS
    (
        SELECT
            *,
            sample.slope AS slope, sample.mean AS mean, sample.deviation AS deviation, sample.spread AS spread, sample.centre AS centre,
            arraySum(coefficients) AS total,
            arrayReduce('sumForEach', arrayMap((vector, x) -> vector * x, sample.vectors, coefficients)) AS mixed,
            slope + dotProduct(sample.z, coefficients) AS text_slope,
            if(chosen_freedom = 0, greatest(text_slope, slope / 10), text_slope) / deviation AS text_scale,
            sample.start.text * text_scale + (mixed - centre * total) * (chosen_freedom / spread) AS direction,
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
    sample.start.model AS model,
    sample.start.weights_hash AS weights_hash,
    now64(6) AS created_at
FROM linear;

-- refine_regions(concept): the next round of a concept from the parts of its judged images, see labelled_regions. Its probabilities are those
-- of scores_regions. But for where the rows come from it is refine, written out, since a view that chose between both would make refine
-- half as fast again; a test holds them equal.
-- Example: INSERT INTO classifiers SELECT * FROM refine_regions(concept = 'circles')
CREATE OR REPLACE VIEW refine_regions AS
WITH
    (SELECT round FROM current_weight(concept = {concept:String})) AS latest,
    -- Rows rather than scalars: tens of thousands of numbers as constants of the statement take more than half of its time.
    start AS
    (
        SELECT argMin((vdx_normalize(weight), logit_scale, model, weights_hash), (round, created_at))
            ::Tuple(text Array(Float32), logit_scale Float64, model String, weights_hash String) AS start
        FROM classifiers
        WHERE concept = {concept:String}
    ),
    judged AS
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))::Tuple(vectors Array(Array(Float32)), labels Array(Float64)) AS judged
        FROM (SELECT vector, positive FROM labelled_regions(concept = {concept:String}) LIMIT 150 BY positive)
        HAVING NOT throwIf(
            count() = 0, 'this concept has no labels, or none whose pictures images holds: INSERT INTO labels (concept, image_id, positive) VALUES (...)')
    ),
    random AS
    (
        SELECT groupArray(vector) AS random
        FROM
        (
            SELECT any(vector) AS vector
            FROM random_regions(concept = {concept:String}, n = 100)
            WHERE id GLOBAL NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
            GROUP BY id
            ORDER BY sipHash64(id)
        )
    ),
    samples AS
    (
        SELECT
            start,
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
            assumeNotNull(start.logit_scale) * deviation / 2 AS slope,
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
        FROM judged CROSS JOIN random CROSS JOIN start
    ),
    -- Both freedoms fitted five times without a fifth of the rows, and once (fold 5) with all of them.
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
            arrayMap((row, begin) -> begin + dotProduct(row, coefficients), kernel, prior) AS logits,
            (labels, z, judged_rows, slope, mean, deviation, spread, centre, vectors, start)::Tuple(
                labels Array(Float64), z Array(Float64), judged UInt64, slope Float64, mean Float64, deviation Float64,
                spread Float64, centre Array(Float64), vectors Array(Array(Float32)),
                start Tuple(text Array(Float32), logit_scale Float64, model String, weights_hash String)) AS sample
        FROM samples
        ARRAY JOIN if(positives > 0, [2., 16.], [0.]) AS freedom
        ARRAY JOIN range(6) AS fold
    ),
    candidates AS
    (
        SELECT
            freedom,
            any(sample) AS sample,
            anyIf(coefficients, fold = 5) AS coefficients,
            arrayMap(pair -> pair.2, arraySort(groupArrayIf((fold, logits), fold < 5))) AS by_fold,
            arrayMap(row -> by_fold[row % 5 + 1][row], arrayEnumerate(sample.labels)) AS held_out,
            vdx_average_precision(sample.labels, if(freedom = 0, sample.z, held_out)) AS average_precision,
            vdx_average_precision(sample.labels, sample.z) AS text_average_precision
        FROM fits
        GROUP BY freedom
    ),
    -- Platt's calibration of the labels' held-out logits, by Newton's method: 20 steps from slope 1 and offset 0.
    calibrated AS
    (
        SELECT
            sample, freedom AS chosen_freedom, coefficients, average_precision, text_average_precision,
            arrayFold(
                (line, step) -> vdx_platt_step(line, arraySlice(held_out, 1, sample.judged), arraySlice(sample.labels, 1, sample.judged)),
                range(20), (1., 0., 0., 0., 0.))
                ::Tuple(slope Float64, offset Float64, slope_variance Float64, covariance Float64, offset_variance Float64) AS platt
        FROM candidates
        ORDER BY average_precision >= text_average_precision OR freedom < 16 DESC, freedom DESC
        LIMIT 1
    ),
    -- Back from coefficients to a weight and a bias.
    linear AS
    (
        SELECT
            *,
            sample.slope AS slope, sample.mean AS mean, sample.deviation AS deviation, sample.spread AS spread, sample.centre AS centre,
            arraySum(coefficients) AS total,
            arrayReduce('sumForEach', arrayMap((vector, x) -> vector * x, sample.vectors, coefficients)) AS mixed,
            slope + dotProduct(sample.z, coefficients) AS text_slope,
            if(chosen_freedom = 0, greatest(text_slope, slope / 10), text_slope) / deviation AS text_scale,
            sample.start.text * text_scale + (mixed - centre * total) * (chosen_freedom / spread) AS direction,
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
    sample.start.model AS model,
    sample.start.weights_hash AS weights_hash,
    now64(6) AS created_at
FROM linear;
