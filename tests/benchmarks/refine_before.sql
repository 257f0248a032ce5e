-- refine() as it was before one freedom was enough: up a ladder of five by cross-validation, and the text kept where nothing beats it.
-- For `make bench-refine` alone.
CREATE OR REPLACE VIEW refine_before AS
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
