-- A map: two coordinates a picture, so that pictures that look alike lie side by side. `dataset` '' means all.

-- map_sample(dataset): the images that a map is made of: 25,000 of a data set, always the same at random, or all where it has no more.
-- Example: SELECT count() FROM map_sample(dataset = 'holiday')
CREATE OR REPLACE VIEW map_sample AS
SELECT id, vector FROM current_images
WHERE {dataset:String} = '' OR dataset = {dataset:String}
ORDER BY sipHash64(id), id
LIMIT 25000;

-- map_positions(dataset): positions by UMAP (see vdx_layout), of map_sample; place_new has those of the others.
-- Example: INSERT INTO map_points SELECT * FROM map_positions(dataset = 'holiday')
CREATE OR REPLACE VIEW map_positions AS
SELECT {dataset:String} AS dataset, initialQueryID() AS map_id, id, point.1 AS x, point.2 AS y, false AS placed
FROM
(
    SELECT arraySort(pair -> (sipHash64(pair.1), pair.1), groupArray((id, vector))) AS rows,
        rows.1 AS ids, vdx_layout(rows.2) AS points
    FROM map_sample(dataset = {dataset:String})
)
ARRAY JOIN ids AS id, points AS point;

-- pca_positions(dataset): positions of all images by their first two principal components: plainer, quicker, and neighbours are often torn
-- apart. By 60 steps of subspace iteration over the sums of 1,000 images; of components that explain nearly the same it may take a mixture.
-- Example: SELECT id, x, y FROM pca_positions(dataset = 'holiday') LIMIT 9
CREATE OR REPLACE VIEW pca_positions AS
WITH
    sampled AS
    (
        SELECT mean, arrayMap(row -> arrayMap((x, y) -> x - y, row, mean), rows) AS centred
        FROM
        (
            SELECT avgForEach(vector) AS mean, arraySort(pair -> pair.1, groupArray((id, vector))).2 AS rows
            FROM (SELECT id, vector FROM map_sample(dataset = {dataset:String}) LIMIT 1000)
        )
        WHERE notEmpty(mean) -- of no images there is no row
    ),
    -- Both components, one after the other in the state; each step multiplies by the covariance and takes the first out of the second.
    iterated AS
    (
        SELECT mean, arrayFold(
            (state, step) -> arrayMap(
                pair -> [pair.1, vdx_normalize(arrayMap((x, y) -> x - dotProduct(pair.1, pair.2) * y, pair.2, pair.1))],
                [arrayMap(
                    sums -> (vdx_normalize(sums[1]), vdx_normalize(sums[2])),
                    [arrayMap(
                        component -> arrayReduce('sumForEach', arrayMap(row -> row * dotProduct(row, component), centred)),
                        state)])[1]])[1],
            range(60),
            [arrayMap(x -> cos(x), range(length(mean))), arrayMap(x -> sin(x), range(length(mean)))]) AS components
        FROM sampled
    )
SELECT {dataset:String} AS dataset, initialQueryID() AS map_id, id,
    toFloat32(dotProduct(vector, components[1]) - dotProduct(mean, components[1])) AS x,
    toFloat32(dotProduct(vector, components[2]) - dotProduct(mean, components[2])) AS y,
    false AS placed
FROM (SELECT id, vector FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String}) AS pictures
CROSS JOIN iterated;

-- map_points: positions that were computed, kept; current_map_points has those of the last map that still hold.
-- Example: INSERT INTO map_points SELECT * FROM place_new(dataset = 'holiday')
CREATE TABLE IF NOT EXISTS map_points
(
    dataset LowCardinality(String),
    map_id String,                                   -- the INSERT that computed the map
    id UInt64,
    x Float32,
    y Float32,
    placed Bool,                                     -- by place_new, beside the others
    found_at DateTime64(3) MATERIALIZED now64(3)     -- as in near_pairs
)
ENGINE = ReplacingMergeTree ORDER BY (dataset, id);

-- current_map_points(dataset): of the last map of a data set the points whose pictures are there and did not change since.
-- Example: SELECT id, x, y FROM current_map_points(dataset = 'holiday') ORDER BY y, x LIMIT 9
CREATE OR REPLACE VIEW current_map_points AS
WITH
    kept AS
    (
        SELECT map_id, id, x, y, placed, found_at FROM map_points FINAL WHERE dataset = {dataset:String} AND map_id != initialQueryID()
    )
SELECT kept.map_id AS map_id, kept.id AS id, kept.x AS x, kept.y AS y, kept.placed AS placed
FROM kept
INNER JOIN (SELECT id, loaded_at FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String}) AS known ON known.id = kept.id
WHERE map_id = (SELECT argMax(map_id, found_at) FROM kept) AND loaded_at <= found_at;

-- place_new(dataset): positions of the images that the last map has not, without moving any: each the mean of its five nearest
-- neighbours' that the map was computed of, weighted by their cosines. No row where there is no map.
-- Example: INSERT INTO map_points SELECT * FROM place_new(dataset = 'holiday')
CREATE OR REPLACE VIEW place_new AS
WITH
    laid AS (SELECT map_id, id, x, y FROM current_map_points(dataset = {dataset:String}) WHERE NOT placed),
    pairs AS
    (
        SELECT arrayJoin(vdx_near(fresh.vectors, known.vectors, 5::UInt32, -2::Float32)) AS pair,
            fresh.ids[pair.1] AS id, known.ids[pair.2] AS neighbour_id, greatest(pair.3, 1e-3) AS weight
        FROM
        (
            SELECT groupArray(id) AS ids, groupArray(vector) AS vectors
            FROM current_images
            WHERE ({dataset:String} = '' OR dataset = {dataset:String})
                AND id NOT IN (SELECT id FROM current_map_points(dataset = {dataset:String}))
            GROUP BY id % greatest(1, (SELECT toUInt64(ceil(count() / 8192)) FROM current_images))
        ) AS fresh
        CROSS JOIN
        (
            SELECT groupArray(id) AS ids, groupArray(vector) AS vectors
            FROM current_images
            WHERE id IN (SELECT id FROM laid)
        ) AS known
    )
SELECT {dataset:String} AS dataset, any(laid.map_id) AS map_id, pairs.id AS id,
    toFloat32(sum(weight * laid.x) / sum(weight)) AS x, toFloat32(sum(weight * laid.y) / sum(weight)) AS y, true AS placed
FROM pairs
INNER JOIN laid ON laid.id = pairs.neighbour_id
GROUP BY pairs.id
SETTINGS max_block_size = 1;
