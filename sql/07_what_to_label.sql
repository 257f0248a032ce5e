-- What to judge next: hits, near misses, images unlike all others, and some at random.

-- next_to_label_mix(concept, k, top, uncertain, diverse, random): k unjudged images to judge next, in these proportions: the
-- nearest to the current weight; of the 30 k nearest those whose probability is closest to 0.5; of the 5 k nearest those
-- least like what was judged or is in the list; and any. Each with its reason; none with a cosine of 0.995 or more to
-- one of the last 1000 that were judged or to one in the list. Far from the top the threshold's estimate rests on the random.
-- Example: SELECT * FROM next_to_label_mix(concept = 'circles', k = 9, top = 1, uncertain = 1, diverse = 1, random = 0)
CREATE OR REPLACE VIEW next_to_label_mix AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current,
    [{top:Float64}, {uncertain:Float64}, {diverse:Float64}, {random:Float64}] AS shares,
    arrayMap(part -> toUInt32(greatest(0, round({k:UInt32} * part / greatest(arraySum(shares), 1e-9)))), arrayCumSum(shares)) AS marks,
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
WHERE NOT throwIf(NOT (arrayMin(shares) >= 0 AND arraySum(shares) > 0),
    'next_to_label_mix: top, uncertain, diverse and random are shares: none below 0, and one at least above')
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
