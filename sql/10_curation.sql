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

-- likely_mistakes(dataset, attribute): images ranked by how much speaks against their label, attributes[attribute].
--
-- The classifier is linear discriminant analysis: normal classes with one covariance, whose ridge is its trace over the degrees of
-- freedom (Kubokawa and Srivastava 2008). Each image is judged without itself: of its class mean and of the covariance it is taken out in
-- closed form (Sherman and Morrison 1950). Its neighbours' labels, each counted by nearness, are mixed in as far as they help: of five
-- temperatures and five weights those are taken that predict the given labels best, 5 % of which may be wrong. An image without kept
-- neighbours is judged by the classifier alone. `suspicion` is 1 less the mixed probability of the given label; beyond 0.5 more
-- speaks against the label than for it. For the only image of a label the mean of the other classes' logits stands.
-- Example: SELECT source, given, suggested, suspicion FROM likely_mistakes(dataset = 'holiday', attribute = 'shape') LIMIT 9
CREATE OR REPLACE VIEW likely_mistakes AS
WITH
    labelled AS
    (
        SELECT id, attributes[{attribute:String}] AS label, vector
        FROM current_images
        WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND label != ''
    ),
    class_means AS
    (
        SELECT label, row_number() OVER (ORDER BY label) AS class, rows, mean
        FROM (SELECT label, count() AS rows, avgForEach(vector)::Array(Float32) AS mean FROM labelled GROUP BY label)
    ),
    assumeNotNull((SELECT (groupArray(label), groupArray(rows)) FROM (SELECT label, rows FROM class_means ORDER BY label)))
        ::Tuple(names Array(String), rows Array(UInt64)) AS classes,
    arraySum(classes.rows) AS images,
    greatest(1, images - length(classes.rows)) AS degrees,
    -- From the class means. Grouped, so that max_block_size holds and the products of a block fit in memory.
    deviations AS
    (
        SELECT id, any(class) AS class, any(arrayMap((x, y) -> x - y, vector, mean)) AS deviation
        FROM labelled
        INNER JOIN class_means USING (label)
        GROUP BY id
    ),
    -- By dimension, in blocks of about 1,000 images, each in the order of ids.
    dimensions AS
    (
        SELECT block, place, numbers
        FROM
        (
            SELECT id % toUInt64(1 + images / 1000) AS block,
                arrayReduce('groupArrayForEach', arrayMap(pair -> pair.2, arraySort(pair -> pair.1, groupArray((id, deviation))))) AS turned
            FROM deviations
            GROUP BY block
        )
        ARRAY JOIN turned AS numbers, arrayEnumerate(turned) AS place
    ),
    scatter AS
    (
        SELECT arrayMap(row -> row.2, arraySort(row -> row.1, groupArray((place, numbers)))) AS scatter
        FROM
        (
            SELECT places.1 AS place, arrayMap(pair -> pair.2, arraySort(pair -> pair.1, groupArray((places.2, product)))) AS numbers
            FROM
            (
                SELECT
                    arrayJoin(arrayDistinct([(one.place, other.place), (other.place, one.place)])) AS places,
                    sum(toFloat64(dotProduct(one.numbers, other.numbers))) AS product
                FROM dimensions AS one
                INNER JOIN dimensions AS other ON one.block = other.block
                WHERE one.place <= other.place
                GROUP BY places
            )
            GROUP BY place
        )
    ),
    inverse AS
    (
        SELECT place, row::Array(Float32) AS row, ridge
        FROM
        (
            SELECT
                greatest(1e-3, arraySum(arrayMap((row, place) -> row[place], scatter, arrayEnumerate(scatter))) / degrees) AS ridge,
                vdx_inverse(arrayMap(
                    (row, place) -> arrayMap((x, other) -> if(place = other, x + ridge, x), row, arrayEnumerate(row)),
                    scatter, arrayEnumerate(scatter))) AS inverse
            FROM scatter
        )
        ARRAY JOIN inverse AS row, arrayEnumerate(inverse) AS place
    ),
    -- The inverse times the class means, class > 0, and times what deviates from them where that is to be known of each image.
    multiplied AS
    (
        SELECT class, id, any(multiplicand) AS vector, sum(row[place]) AS trace, any(inverse.ridge) AS ridge, count() AS dimension,
            arrayMap(pair -> pair.2, arraySort(pair -> pair.1, groupArray((place, dotProduct(row, multiplicand))))) AS product
        FROM inverse
        CROSS JOIN
        (
            SELECT class, 0 AS id, mean AS multiplicand FROM class_means
            UNION ALL
            SELECT 0, id, deviation FROM deviations WHERE images <= 1024
        ) AS multiplicands
        GROUP BY class, id
    ),
    assumeNotNull((
        SELECT (
            weights,
            arrayMap(weight -> arrayMap(mean -> toFloat64(dotProduct(weight, mean)), means), weights),
            ids, leverages, leverage)
        FROM
        (
            SELECT
                arrayMap(pair -> pair.2, arraySort(pair -> pair.1, groupArrayIf((class, product), class > 0))) AS weights,
                arrayMap(pair -> pair.2, arraySort(pair -> pair.1, groupArrayIf((class, vector), class > 0))) AS means,
                groupArrayIf(id, class = 0) AS ids,
                groupArrayIf(toFloat64(dotProduct(vector, product)), class = 0) AS leverages,
                (any(dimension) - any(ridge) * any(trace)) / images AS leverage
            FROM multiplied
        )
    ))::Tuple(weights Array(Array(Float32)), products Array(Array(Float64)), ids Array(UInt64), leverages Array(Float64), leverage Float64)
        AS model,
    arrayMap((row, place) -> row[place], model.products, arrayEnumerate(model.products)) AS squares,
    -- An image's squared distance from its own class mean.
    leverages AS
    (
        SELECT id, class, arrayMap(weight -> toFloat64(dotProduct(weight, deviation)), model.weights) AS towards,
            if(empty(model.ids), model.leverage, model.leverages[indexOf(model.ids, id)]) AS leverage
        FROM deviations
    ),
    distances AS
    (
        SELECT
            id, class,
            classes.rows[class] AS alike,
            alike / greatest(1, alike - 1) AS growth,
            greatest(1e-9, 1 - growth * leverage) AS left_over,
            towards[class] AS toward_own,
            squares[class] AS own_square,
            arrayMap(
                (toward, product, square) -> leverage + 2 * (toward_own - toward) + own_square - 2 * product + square
                    -- What the image itself took off the distance by widening the covariance in its direction.
                    + if(alike > 1, growth / left_over * pow(leverage + toward_own - toward, 2), 0),
                towards, model.products[class], squares) AS from_others,
            arrayMap(
                (distance, place) -> multiIf(
                    place != class, distance,
                    alike > 1, growth * growth * leverage / left_over,
                    (arraySum(from_others) - distance) / greatest(1, length(from_others) - 1)),
                from_others, arrayEnumerate(from_others)) AS from_means,
            arrayMap(distance -> degrees / 2 * (arrayMin(from_means) - distance), from_means) AS logits
        FROM leverages
    ),
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
    tried AS
    (
        SELECT
            id, class, logits,
            if(empty(votes), [], arrayMap(name -> votes[name] / arraySum(mapValues(votes)), classes.names)) AS shares,
            -- (temperature, weight of the neighbours); the log-loss of each, and those of the least.
            [1, 0.5, 0.25, 0.12, 0.06] AS slopes,
            [0, 0.1, 0.2, 0.35, 0.5] AS parts,
            arrayMap(slope -> exp(slope * logits[class]) / arraySum(arrayMap(logit -> exp(slope * logit), logits)), slopes) AS odds,
            arrayFlatten(arrayMap(odd -> arrayMap(
                part -> -log(0.95 * if(empty(shares), odd, odd + part * (shares[class] - odd)) + 0.05 / length(classes.names)), parts), odds))
                AS losses,
            avgForEach(losses) OVER () AS mean_losses,
            indexOf(mean_losses, arrayMin(mean_losses)) - 1 AS best
        FROM distances
        LEFT JOIN voted USING (id)
    ),
    mixed AS
    (
        SELECT
            id, class, shares,
            vdx_softmax(arrayMap(logit -> slopes[intDiv(best, 5) + 1] * logit, logits)) AS probabilities,
            if(empty(shares), probabilities, arrayMap((p, share) -> p + parts[best % 5 + 1] * (share - p), probabilities, shares)) AS support
        FROM tried
    )
SELECT id, source, classes.names[class] AS given, classes.names[indexOf(support, arrayMax(support))] AS suggested,
    1 - support[class] AS suspicion,
    if(empty(shares), NULL, shares[class]) AS neighbour_share,
    probabilities[class] AS classifier_probability
FROM mixed
INNER JOIN (SELECT id, source FROM current_images) AS pictures USING (id)
ORDER BY suspicion DESC, id
SETTINGS max_block_size = 64;

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
