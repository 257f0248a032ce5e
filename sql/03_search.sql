-- Searches. Each is a parameterised view: SELECT * FROM search_text(query = 'a cat', k = 9).
-- All answer (id, source, dataset, distance), nearest first, through the vector index up to k = 1000 (ClickHouse's
-- max_limit_for_vector_search_queries; hidden rows count) and by an exact scan beyond.
-- Rows that are hidden are looked past: deleted ones, which the index still holds (they are read too, by apply_deleted_mask = 0, or it
-- would answer fewer than k; what is read inside for another purpose has it at 1), and superseded ones. A hit whose vector is of other
-- weights than the encoder's is an error: those do not compare. (Whether a row counts is an argument there, since an executable function
-- looks at all rows of a condition, whatever stands before it.)
-- A view's argument is a constant, such as encode_text('a cat'); ClickHouse before 26.9 takes no subquery there.

-- search_text(query, k): the k images nearest to a text.
-- Example: SELECT * FROM search_text(query = 'a red circle', k = 9)
CREATE OR REPLACE VIEW search_text AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_text({query:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_image(image, k): the k images nearest to a picture, given as encode_image takes it.
-- Example: SELECT * FROM search_image(image = '/pictures/query.png', k = 9)
CREATE OR REPLACE VIEW search_image AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_image({image:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector(vector, k): the k images nearest to a vector, for example a classifier's weight.
-- Example: SELECT * FROM search_vector(vector = encode_text('a red circle'), k = 9)
CREATE OR REPLACE VIEW search_vector AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, {vector:Array(Float32)}) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector_in(vector, dataset, k): the k images of one data set nearest to a vector, through its own part of the index: in the time of
-- search_vector.
-- Example: SELECT * FROM search_vector_in(vector = encode_text('a red circle'), dataset = 'demo', k = 9)
CREATE OR REPLACE VIEW search_vector_in AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, {vector:Array(Float32)}) AS distance
    FROM images
    WHERE dataset = {dataset:String}
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_id(image_id, k): the k images most similar to one of the table, itself left out.
-- Example: SELECT * FROM search_id(image_id = 42, k = 9)
CREATE OR REPLACE VIEW search_id AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, (
            SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
            HAVING NOT throwIf(count() = 0, 'search_id: no image has this image_id')
            SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + 1 + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE id != {image_id:UInt64} AND vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_excluding(query, exclude, k): as search_text, without the images whose ids are listed.
-- Example: SELECT * FROM search_text_excluding(query = 'a red circle', exclude = [42, 43], k = 9)
CREATE OR REPLACE VIEW search_text_excluding AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_text({query:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + length({exclude:Array(UInt64)}) + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE NOT has({exclude:Array(UInt64)}, id) AND vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_mix(texts, weights, k): the k images nearest to several texts at once: to the sum of their vectors, each times its
-- weight. A negative weight leads away from its text.
-- Example: SELECT * FROM search_mix(texts = ['a red circle', 'a black background'], weights = [1, -0.5], k = 9)
CREATE OR REPLACE VIEW search_mix AS
WITH
    (
        SELECT vdx_normalize(total)
        FROM
        (
            SELECT sumForEach(arrayMap(x -> x * pair.2, encode_text(pair.1))) AS total
            FROM (SELECT arrayJoin(arrayZip({texts:Array(String)}, arrayResize({weights:Array(Float32)}, length({texts:Array(String)})))) AS pair)
        )
        WHERE NOT throwIf(length({texts:Array(String)}) != length({weights:Array(Float32)}),
                'search_mix: as many weights as texts are needed, one for each')
            AND NOT throwIf(NOT L2Norm(total) >= 1e-6, 'search_mix: these texts and weights add up to no direction')
        SETTINGS apply_deleted_mask = 1
    ) AS target
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, target) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE vdx_check_weights(model, weights_hash,
    _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector_where(vector, dataset, attribute, value, k): as search_vector within one data set ('' for all), through its own part of
-- the index, and, unless attribute is '', with attributes[attribute] = value: the k best of the index's 1000 nearest where as many
-- pass; a filter that leaves fewer is searched exactly, at once where a sample says so, and no match is missed.
-- Example: SELECT * FROM search_vector_where(vector = encode_text('a red circle'), dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_vector_where AS
WITH
    -- By one id in 1,024, which are hashes.
    (
        SELECT vdx_is_rare(countIf(attributes[{attribute:String}] = {value:String}), count(), {k:UInt32})
        FROM
        (
            SELECT attributes
            FROM images
            WHERE {attribute:String} != '' AND id < 18014398509481984 AND ({dataset:String} = '' OR dataset = {dataset:String})
            LIMIT 100000
        )
    ) AS is_rare,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, distance))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, distance
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, attributes, loaded_at, _row_exists,
                    cosineDistance(vector, {vector:Array(Float32)}) AS distance
                FROM images
                WHERE NOT is_rare AND ({dataset:String} = '' OR dataset = {dataset:String})
                ORDER BY distance
                LIMIT if({attribute:String} = '', least(1000, 2 * {k:UInt32} + 30), 1000)
                SETTINGS apply_deleted_mask = 0
            )
            WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
            ORDER BY distance
            LIMIT {k:UInt32}
        )
    ) AS near
SELECT id, source, dataset, distance
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, {vector:Array(Float32)}) + 0 AS distance
    FROM images
    WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_where(query, dataset, attribute, value, k): the same for a text.
-- Example: SELECT * FROM search_text_where(query = 'a red circle', dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_text_where AS
WITH
    (SELECT encode_text({query:String})) AS target,
    -- By one id in 1,024, which are hashes.
    (
        SELECT vdx_is_rare(countIf(attributes[{attribute:String}] = {value:String}), count(), {k:UInt32})
        FROM
        (
            SELECT attributes
            FROM images
            WHERE {attribute:String} != '' AND id < 18014398509481984 AND ({dataset:String} = '' OR dataset = {dataset:String})
            LIMIT 100000
        )
    ) AS is_rare,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, distance))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, distance
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, attributes, loaded_at, _row_exists,
                    cosineDistance(vector, target) AS distance
                FROM images
                WHERE NOT is_rare AND ({dataset:String} = '' OR dataset = {dataset:String})
                ORDER BY distance
                LIMIT if({attribute:String} = '', least(1000, 2 * {k:UInt32} + 30), 1000)
                SETTINGS apply_deleted_mask = 0
            )
            WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
            ORDER BY distance
            LIMIT {k:UInt32}
        )
    ) AS near
SELECT id, source, dataset, distance
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, target) + 0 AS distance
    FROM images
    WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- search_id_where(image_id, dataset, attribute, value, k): the same for an image of the table, which is its own nearest.
-- Example: SELECT * FROM search_id_where(image_id = 42, dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_id_where AS
WITH
    (
        SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
        HAVING NOT throwIf(count() = 0, 'search_id_where: no image has this image_id')
        SETTINGS apply_deleted_mask = 1
    ) AS target,
    -- By one id in 1,024, which are hashes.
    (
        SELECT vdx_is_rare(countIf(attributes[{attribute:String}] = {value:String}), count(), {k:UInt32})
        FROM
        (
            SELECT attributes
            FROM images
            WHERE {attribute:String} != '' AND id < 18014398509481984 AND ({dataset:String} = '' OR dataset = {dataset:String})
            LIMIT 100000
        )
    ) AS is_rare,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, distance))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, distance
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, attributes, loaded_at, _row_exists,
                    cosineDistance(vector, target) AS distance
                FROM images
                WHERE NOT is_rare AND ({dataset:String} = '' OR dataset = {dataset:String})
                ORDER BY distance
                LIMIT if({attribute:String} = '', least(1000, 2 * {k:UInt32} + 30), 1000)
                SETTINGS apply_deleted_mask = 0
            )
            WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
            ORDER BY distance
            LIMIT {k:UInt32}
        )
    ) AS near
SELECT id, source, dataset, distance
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, target) + 0 AS distance
    FROM images
    WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- search_filtered(vector, datasets, any_of, none_of, at_least, at_most, caption, exclude, k): as search_vector_where with every condition
-- that is not empty: one of the data sets; attributes with one of these values, with none of those, within these bounds (see
-- vdx_at_least); a part of the caption in any case; not these ids. For other conditions see the documentation of searching.
-- Example: SELECT * FROM search_filtered(vector = encode_text('a red circle'), datasets = [], any_of = map('background', ['white', 'black']), none_of = map('parity', ['1']), at_least = map('taken', '2024-01-01'), at_most = map('iso', '400'), caption = '', exclude = [], k = 9)
CREATE OR REPLACE VIEW search_filtered AS
WITH
    (SELECT vdx_directed({vector:Array(Float32)})) AS target,
    -- By one id in 1,024, which are hashes.
    (
        SELECT vdx_is_rare(countIf(passes), count(), {k:UInt32})
        FROM
        (
            SELECT vdx_passes(attributes, {any_of:Map(String, Array(String))}, {none_of:Map(String, Array(String))}, {at_least:Map(String, String)}, {at_most:Map(String, String)})
                AND NOT has({exclude:Array(UInt64)}, id) AND positionCaseInsensitiveUTF8(caption, {caption:String}) > 0 AS passes
            FROM images
            WHERE id < 18014398509481984 AND (empty({datasets:Array(String)}) OR has({datasets:Array(String)}, dataset))
            LIMIT 100000
        )
    ) AS is_rare,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, distance))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, distance
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, caption, attributes, loaded_at, _row_exists,
                    cosineDistance(vector, target) AS distance
                FROM images
                WHERE NOT is_rare AND (empty({datasets:Array(String)}) OR has({datasets:Array(String)}, dataset))
                ORDER BY distance
                LIMIT 1000
                SETTINGS apply_deleted_mask = 0
            )
            WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                AND vdx_passes(attributes, {any_of:Map(String, Array(String))}, {none_of:Map(String, Array(String))}, {at_least:Map(String, String)}, {at_most:Map(String, String)})
                AND NOT has({exclude:Array(UInt64)}, id) AND positionCaseInsensitiveUTF8(caption, {caption:String}) > 0
            ORDER BY distance
            LIMIT {k:UInt32}
        )
    ) AS near
SELECT id, source, dataset, distance
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, target) + 0 AS distance
    FROM images
    WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        AND (empty({datasets:Array(String)}) OR has({datasets:Array(String)}, dataset))
        AND vdx_passes(attributes, {any_of:Map(String, Array(String))}, {none_of:Map(String, Array(String))}, {at_least:Map(String, String)}, {at_most:Map(String, String)})
        AND NOT has({exclude:Array(UInt64)}, id) AND positionCaseInsensitiveUTF8(caption, {caption:String}) > 0
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- search_page(vector, dataset, k, start): k images from the place `start` on, counted from 0, in one order for all pages: the index's 1000
-- nearest by distance, then the rest by distance, exactly; of equal ones the smaller id first. No picture is on two pages or on none.
-- Example: SELECT * FROM search_page(vector = encode_text('a red circle'), dataset = '', k = 50, start = 100)
CREATE OR REPLACE VIEW search_page AS
WITH
    (SELECT vdx_directed({vector:Array(Float32)})) AS target,
    (
        SELECT arraySort(hit -> (hit.6, hit.1), groupArray((id, source, dataset, model, weights_hash, distance)))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, target) AS distance
            FROM images
            WHERE {dataset:String} = '' OR dataset = {dataset:String}
            ORDER BY distance
            LIMIT 1000
            SETTINGS apply_deleted_mask = 0
        )
        WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    ) AS near
SELECT id, source, dataset, distance
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance, 0 AS stage
    FROM (SELECT arrayJoin(arraySlice(near, {start:UInt64} + 1, {k:UInt32})) AS hit)
    UNION ALL
    SELECT id, source, dataset, model, weights_hash, cosineDistance(vector, target) + 0 AS distance, 1 AS stage
    FROM images
    WHERE {start:UInt64} + {k:UInt32} > length(near) AND id GLOBAL NOT IN (SELECT arrayJoin(near.1)) AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    ORDER BY distance, id
    LIMIT least({start:UInt64} + {k:UInt32} - least({start:UInt64} + {k:UInt32}, length(near)), {k:UInt32})
    OFFSET greatest({start:UInt64}, length(near)) - length(near)
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY stage, distance, id;

-- search_hybrid(query, dataset, k): by words and by what the pictures show: those whose caption or attributes hold words of the query, rarer
-- words first, and the 1000 nearest vectors, fused by reciprocal rank: score is the sum of 1 / (60 + rank) (Cormack, Clarke, Buettcher:
-- Reciprocal Rank Fusion, SIGIR 2009). A rank is 0 where a picture is not in that list; of equal scores the nearer first.
-- Example: SELECT source, score, words_rank, vector_rank FROM search_hybrid(query = 'red circle', dataset = '', k = 9)
CREATE OR REPLACE VIEW search_hybrid AS
WITH
    arrayDistinct(arrayFilter(word -> notEmpty(word), splitByNonAlpha(lowerUTF8({query:String})))) AS words,
    toFloat64(assumeNotNull((SELECT count() FROM images SETTINGS apply_deleted_mask = 1))) AS total
SELECT
    id, any(source) AS source, any(dataset) AS dataset, sum(1 / (60 + rank)) AS score,
    sumIf(rank, list = 'words') AS words_rank, sumIf(rank, list = 'vector') AS vector_rank
FROM
(
    SELECT 'vector' AS list, id, source, dataset, row_number() OVER (ORDER BY distance, id) AS rank
    FROM
    (
        SELECT id, source, dataset, model, weights_hash, distance
        FROM
        (
            SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_text({query:String})) AS distance
            FROM images
            WHERE {dataset:String} = '' OR dataset = {dataset:String}
            ORDER BY distance
            LIMIT 1000
            SETTINGS apply_deleted_mask = 0
        )
        WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        ORDER BY distance
        LIMIT 1000
    )
    WHERE vdx_check_weights(model, weights_hash, 1)
    UNION ALL
    SELECT 'words' AS list, id, source, dataset, rank() OVER (ORDER BY weight DESC) AS rank
    FROM
    (
        -- A word of every picture weighs log 2, one of a single picture the most.
        SELECT id, source, dataset,
            arraySum(arrayMap((here, holders) -> here * log(1 + total / greatest(holders, 1)), found, sumForEach(found) OVER ())) AS weight
        FROM
        (
            SELECT id, source, dataset, arrayMap(word -> has(vdx_words(caption, attributes), word), words) AS found
            FROM images
            WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND hasAny(vdx_words(caption, attributes), words)
                AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
        )
    )
)
GROUP BY id
ORDER BY score DESC, vector_rank = 0, vector_rank, id
LIMIT {k:UInt32};
