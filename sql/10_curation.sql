-- Curation: near duplicates, leaks between splits, likely label mistakes, uniqueness, diverse subsets, label coverage.
-- All pairs are compared, none sampled: vectors go to vdx_near in blocks. `dataset` '' means all.

-- vector_blocks(dataset, attribute, value): vectors in blocks of about 8,192, as vdx_near takes them: those of the data set
-- whose attributes[attribute] is value; '' for dataset or attribute means all.
-- Example: SELECT block, length(vectors) FROM vector_blocks(dataset = '', attribute = 'split', value = 'train')
CREATE OR REPLACE VIEW vector_blocks AS
WITH (
    SELECT toUInt64(ceil(count() / 8192))
    FROM current_images
    WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
) AS parts
SELECT id % greatest(parts, 1) AS block, groupArray(id) AS ids, groupArray(vector) AS vectors
FROM current_images
WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
GROUP BY block;

-- near_duplicates(dataset, least): all pairs of images with a cosine of `least` or more, the pictures' own copies among them.
-- Example: INSERT INTO near_pairs SELECT * FROM near_duplicates(dataset = 'holiday', least = 0.95)
CREATE OR REPLACE VIEW near_duplicates AS
SELECT {dataset:String} AS dataset, least(one, other) AS first_id, greatest(one, other) AS second_id, cosine
FROM
(
    SELECT arrayJoin(vdx_near(a.vectors, b.vectors, 0::UInt32, {least:Float32})) AS pair,
        a.ids[pair.1] AS one, b.ids[pair.2] AS other, pair.3 AS cosine
    FROM vector_blocks(dataset = {dataset:String}, attribute = '', value = '') AS a
    CROSS JOIN vector_blocks(dataset = {dataset:String}, attribute = '', value = '') AS b
    WHERE a.block <= b.block AND (a.block < b.block OR one < other)
)
SETTINGS max_block_size = 1;

-- near_pairs: near duplicates that were looked for, kept. The views leave out pairs of pictures that are gone or changed since.
-- Example: SELECT first_id, second_id, cosine FROM near_pairs ORDER BY cosine DESC LIMIT 9
CREATE TABLE IF NOT EXISTS near_pairs
(
    dataset LowCardinality(String),
    first_id UInt64,
    second_id UInt64,
    cosine Float32,
    found_at DateTime64(3) MATERIALIZED now64(3)     -- when the INSERT began; SELECT * has no such column, so that it can be inserted
)
ENGINE = ReplacingMergeTree ORDER BY (dataset, first_id, second_id);
ALTER TABLE near_pairs ADD COLUMN IF NOT EXISTS found_at DateTime64(3) MATERIALIZED now64(3);

-- near_duplicate_groups(dataset, least): near_pairs as groups, where every image is near another one of its group, and which of
-- each to keep: the one of most bytes, of equals the one of least id.
-- Example: SELECT group_id, source FROM near_duplicate_groups(dataset = 'holiday', least = 0.95) WHERE NOT keep
CREATE OR REPLACE VIEW near_duplicate_groups AS
WITH RECURSIVE
    pairs AS
    (
        SELECT first_id, second_id, found_at FROM near_pairs FINAL WHERE dataset = {dataset:String} AND cosine >= {least:Float32}
    ),
    known AS
    (
        SELECT id, source, size, loaded_at FROM current_images
        WHERE id GLOBAL IN (SELECT first_id FROM pairs UNION ALL SELECT second_id FROM pairs)
    ),
    -- Of pictures that are there and did not change since.
    edges AS
    (
        SELECT arrayJoin([(first_id, second_id), (second_id, first_id)]) AS edge, edge.1 AS id, edge.2 AS neighbour
        FROM pairs
        INNER JOIN known AS one ON one.id = first_id
        INNER JOIN known AS other ON other.id = second_id
        WHERE greatest(one.loaded_at, other.loaded_at) <= found_at
    ),
    -- Each image takes the least id among its neighbours' and its label's own, until nothing changes.
    labelled AS
    (
        SELECT id, least(id, min(neighbour)) AS label, true AS changed, 0 AS turn FROM edges GROUP BY id
        UNION ALL
        SELECT next.id, next.label, max(next.moved) OVER () AS changed, next.turn
        FROM
        (
            SELECT edges.id AS id, least(any(own.label), min(other.label), any(above.label)) AS label,
                label != any(own.label) AS moved, any(own.turn) + 1 AS turn
            FROM edges
            INNER JOIN labelled AS own ON own.id = edges.id
            INNER JOIN labelled AS other ON other.id = edges.neighbour
            INNER JOIN labelled AS above ON above.id = own.label
            WHERE own.changed
            GROUP BY edges.id
        ) AS next
    )
SELECT group_id, id, source, size, row_number() OVER (PARTITION BY group_id ORDER BY size DESC, id) = 1 AS keep
FROM (SELECT id, argMax(label, turn) AS group_id FROM labelled GROUP BY id) AS grouped
INNER JOIN known AS pictures USING (id)
ORDER BY group_id, keep DESC, id;

-- leaks(attribute, train, test, least): images of the test split with a near duplicate in the training split, and that one. The
-- splits are the values of attributes[attribute] or, where attribute is '', names of data sets.
-- Example: SELECT test_source, train_source, cosine FROM leaks(attribute = 'split', train = 'train', test = 'val', least = 0.95)
CREATE OR REPLACE VIEW leaks AS
WITH
    found AS
    (
        SELECT arrayJoin(vdx_near(tested.vectors, trained.vectors, 0::UInt32, {least:Float32})) AS pair,
            tested.ids[pair.1] AS test_id, trained.ids[pair.2] AS train_id, pair.3 AS cosine
        FROM vector_blocks(dataset = if({attribute:String} = '', {test:String}, ''), attribute = {attribute:String}, value = {test:String}) AS tested
        CROSS JOIN vector_blocks(dataset = if({attribute:String} = '', {train:String}, ''), attribute = {attribute:String}, value = {train:String}) AS trained
    )
SELECT test_id, train_id, cosine, test.source AS test_source, train.source AS train_source
FROM found
INNER JOIN (SELECT id, source FROM current_images) AS test ON test.id = test_id
INNER JOIN (SELECT id, source FROM current_images) AS train ON train.id = train_id
ORDER BY cosine DESC
SETTINGS max_block_size = 1;

-- nearest_neighbours(dataset, k): of every image the k nearest others, exactly.
-- Example: INSERT INTO neighbours SELECT * FROM nearest_neighbours(dataset = 'holiday', k = 10)
CREATE OR REPLACE VIEW nearest_neighbours AS
SELECT {dataset:String} AS dataset, id, best.2 AS neighbour_id, best.1 AS cosine
FROM
(
    SELECT id, arrayJoin(arraySlice(arrayReverseSort(groupArray((cosine, neighbour_id))), 1, {k:UInt32})) AS best
    FROM
    (
        SELECT arrayJoin(vdx_near(a.vectors, b.vectors, toUInt32({k:UInt32} + 1), -2::Float32)) AS pair,
            a.ids[pair.1] AS id, b.ids[pair.2] AS neighbour_id, pair.3 AS cosine
        FROM vector_blocks(dataset = {dataset:String}, attribute = '', value = '') AS a
        CROSS JOIN vector_blocks(dataset = {dataset:String}, attribute = '', value = '') AS b
    )
    WHERE id != neighbour_id
    GROUP BY id
)
SETTINGS max_block_size = 1;

-- neighbours: nearest neighbours that were looked for, kept; current_neighbours has those that still hold.
-- Example: SELECT neighbour_id, cosine FROM neighbours WHERE id = 42 ORDER BY cosine DESC
CREATE TABLE IF NOT EXISTS neighbours
(
    dataset LowCardinality(String),
    id UInt64,
    neighbour_id UInt64,
    cosine Float32,
    found_at DateTime64(3) MATERIALIZED now64(3),    -- as in near_pairs
    insert_id String MATERIALIZED initialQueryID()   -- the INSERT that brought it
)
ENGINE = ReplacingMergeTree ORDER BY (dataset, id, neighbour_id);
ALTER TABLE neighbours
    ADD COLUMN IF NOT EXISTS found_at DateTime64(3) MATERIALIZED now64(3),
    ADD COLUMN IF NOT EXISTS insert_id String MATERIALIZED initialQueryID();

-- current_neighbours(dataset): of the last INSERT INTO neighbours for a data set the pairs whose pictures are there and did not change
-- since. Rows from before schema version 2 have no insert_id and do not count: look for neighbours again.
-- Example: SELECT neighbour_id, cosine FROM current_neighbours(dataset = 'holiday') WHERE id = 42 ORDER BY cosine DESC
CREATE OR REPLACE VIEW current_neighbours AS
WITH
    kept AS
    (
        SELECT id, neighbour_id, cosine, found_at, insert_id
        FROM neighbours FINAL
        WHERE dataset = {dataset:String} AND insert_id NOT IN ('', initialQueryID())
    ),
    known AS (SELECT id, loaded_at FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String})
SELECT kept.id AS id, kept.neighbour_id AS neighbour_id, kept.cosine AS cosine
FROM kept
INNER JOIN known AS one ON one.id = kept.id
INNER JOIN known AS other ON other.id = kept.neighbour_id
WHERE insert_id = (SELECT argMax(insert_id, found_at) FROM kept) AND greatest(one.loaded_at, other.loaded_at) <= found_at;

-- likely_mistakes(dataset, attribute): images ranked by how much speaks against their label, attributes[attribute]: the share of
-- their neighbours that have another one, each counted by its nearness, and the classifier of class means, to whose mean
-- of the given label the image itself does not belong. `suspicion` is the mean of both; beyond 0.5 more speaks against the
-- label than for it. `suggested` is what both together favour.
-- Example: SELECT source, given, suggested, suspicion FROM likely_mistakes(dataset = 'holiday', attribute = 'shape') LIMIT 9
CREATE OR REPLACE VIEW likely_mistakes AS
WITH
    labelled AS
    (
        SELECT id, attributes[{attribute:String}] AS label, vector
        FROM current_images
        WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND label != ''
    ),
    (
        SELECT (groupArray(label), groupArray(total), groupArray(rows))
        FROM (SELECT label, sumForEach(vector) AS total, count() AS rows FROM labelled GROUP BY label ORDER BY label)
    ) AS classes,
    voted AS
    (
        SELECT id, sumMap(map(label, weight)) AS votes
        FROM
        (
            SELECT near.id AS id, named.label AS label,
                -- A neighbour counts by its distance over that of the farthest.
                exp(-(1 - near.cosine) / greatest(1e-6, max(1 - near.cosine) OVER (PARTITION BY near.id))) AS weight
            FROM current_neighbours(dataset = {dataset:String}) AS near
            INNER JOIN (SELECT id, label FROM labelled) AS named ON named.id = near.neighbour_id
        )
        GROUP BY id
    ),
    judged AS
    (
        SELECT
            id,
            label AS given,
            arrayMap(total -> dotProduct(vector, vdx_normalize(total)), classes.2) AS to_means,
            arrayMap(
                (name, total, rows, to_mean) -> multiIf(
                    name != label, to_mean,
                    rows > 1, dotProduct(vector, vdx_normalize(arrayMap((a, b) -> a - b, total, vector))),
                    -- The only one of its label: no other picture speaks for it or against it.
                    (arraySum(to_means) - to_mean) / greatest(1, length(to_means) - 1)),
                classes.1, classes.2, classes.3, to_means) AS cosines,
            arrayMap(name -> votes[name] / arraySum(mapValues(votes)), classes.1) AS shares
        FROM labelled
        INNER JOIN voted USING (id)
    ),
    scored AS
    (
        SELECT
            *,
            -- The classifier's scale is that of the cosines themselves: their deviation over all images and classes.
            greatest(1e-6, stddevPopArray(cosines) OVER ()) AS deviation,
            vdx_softmax(arrayMap(cosine -> 3 * cosine / deviation, cosines)) AS odds,
            arrayMap((share, odd) -> (share + odd) / 2, shares, odds) AS support
        FROM judged
    )
SELECT id, source, given, classes.1[indexOf(support, arrayMax(support))] AS suggested,
    1 - support[indexOf(classes.1, given)] AS suspicion,
    shares[indexOf(classes.1, given)] AS neighbour_share,
    odds[indexOf(classes.1, given)] AS classifier_probability
FROM scored
INNER JOIN (SELECT id, source FROM current_images) AS pictures USING (id)
ORDER BY suspicion DESC, id;

-- uniqueness(dataset): every image's mean distance to its kept neighbours, as a rank from 0 (most common) to 1 (most unusual), and
-- its cosine to the mean of all images as a rank from 0 to 1 (most representative).
-- Example: SELECT source, uniqueness, representativeness FROM uniqueness(dataset = 'holiday') ORDER BY uniqueness DESC LIMIT 9
CREATE OR REPLACE VIEW uniqueness AS
WITH (SELECT vdx_normalize(avgForEach(vector)) FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String}) AS mean
SELECT id, source, distance, percent_rank() OVER (ORDER BY distance) AS uniqueness,
    cosine, percent_rank() OVER (ORDER BY cosine) AS representativeness
FROM
(
    SELECT id, source, dotProduct(vector, mean) AS cosine
    FROM current_images
    WHERE {dataset:String} = '' OR dataset = {dataset:String}
) AS pictures
INNER JOIN (SELECT id, 1 - avg(cosine) AS distance FROM current_neighbours(dataset = {dataset:String}) GROUP BY id) AS near USING (id);

-- diverse_subset(dataset, n): n images that cover a data set: the nearest to its mean, then each time the one farthest from
-- all chosen so far (greedy k-centre, Gonzalez 1985), with that distance. Each image once; fewer where there are fewer.
-- Example: SELECT place, source, distance FROM diverse_subset(dataset = 'holiday', n = 9)
CREATE OR REPLACE VIEW diverse_subset AS
WITH
    all_vectors AS
    (
        SELECT groupArray(id) AS ids, groupArray(source) AS sources, groupArray(vector) AS vectors, avgForEach(vector) AS mean
        FROM (SELECT id, source, vector FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String} ORDER BY id)
    ),
    started AS
    (
        SELECT *, arrayMap(v -> dotProduct(v, mean), vectors) AS to_mean, indexOf(to_mean, arrayMax(to_mean)) AS first
        FROM all_vectors
    ),
    -- The state is each image's distance to the chosen, -1 for those, followed by the chosen themselves.
    chosen AS
    (
        SELECT
            ids, sources,
            arrayFold(
                (state, turn) -> arrayMap(
                    next -> arrayConcat(
                        arrayMap(
                            (v, distance, place) -> if(place = next, -1, least(distance, greatest(0, 1 - dotProduct(v, vectors[next])))),
                            vectors, arraySlice(state, 1, length(ids)), arrayEnumerate(ids)),
                        arraySlice(state, length(ids) + 1),
                        [toFloat64(next), state[next]]),
                    [indexOf(state, arrayMax(arraySlice(state, 1, length(ids))))])[1],
                range(toUInt32(greatest(1, least({n:UInt32}, length(ids)))) - 1),
                arrayConcat(
                    arrayMap((v, place) -> if(place = first, -1, greatest(0, toFloat64(1 - dotProduct(v, vectors[first])))), vectors, arrayEnumerate(ids)),
                    [toFloat64(first), 2.])) AS state
        FROM started
    )
SELECT
    number + 1 AS place,
    ids[toUInt64(picks[2 * number + 1])] AS id,
    sources[toUInt64(picks[2 * number + 1])] AS source,
    picks[2 * number + 2] AS distance
FROM (SELECT ids, sources, arraySlice(state, length(ids) + 1) AS picks FROM chosen WHERE notEmpty(ids) AND {n:UInt32} > 0)
ARRAY JOIN range(toUInt32(length(picks) / 2)) AS number
ORDER BY place;

-- label_coverage(labels, template_set): of a set of labels, how many images each is the most probable one of, at what mean
-- probability (NULL of none), and of how many it is not sure (below 0.5): labels that nothing has, and images that no label fits.
-- Example: SELECT label, images, unsure FROM label_coverage(labels = ['red', 'blue'], template_set = 'default')
CREATE OR REPLACE VIEW label_coverage AS
SELECT label, images, images / greatest(1, sum(images) OVER ()) AS share, mean_probability, unsure
FROM
(
    SELECT label, countIf(given) AS images, if(images = 0, NULL, avgIf(probability, given)) AS mean_probability, countIf(given AND probability < 0.5) AS unsure
    FROM
    (
        SELECT label, probability, true AS given
        FROM zero_shot(labels = {labels:Array(String)}, template_set = {template_set:String})
        UNION ALL
        SELECT arrayJoin({labels:Array(String)}), 0, false
    )
    GROUP BY label
)
ORDER BY images DESC, label;
