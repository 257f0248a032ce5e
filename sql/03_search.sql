-- Searches. Each is a parameterised view: SELECT * FROM search_text(query = 'a cat', k = 9).
-- All answer (id, source, dataset, distance), nearest first, through the vector index up to k = 1000 (ClickHouse's
-- max_limit_for_vector_search_queries; hidden rows count) and by an exact scan beyond.
-- Each asks the index for as many more rows as are hidden and leaves those out: deleted ones, which the index still holds (they are
-- read too, by apply_deleted_mask = 0, or it would answer fewer than k; what is read inside for another purpose has it at 1), and
-- superseded ones. A hit whose vector is of other weights than the encoder's is an error: those do not compare.
-- A view's argument is a constant, such as encode_text('a cat'); ClickHouse before 26.9 takes no subquery there.

-- search_text(query, k): the k images nearest to a text.
-- Example: SELECT * FROM search_text(query = 'a red circle', k = 9)
CREATE OR REPLACE VIEW search_text AS
WITH (SELECT (model, weights_hash) FROM encoder_weights) AS encoder
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_text({query:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND vdx_comparable(model, weights_hash, encoder)
ORDER BY distance
LIMIT {k:UInt32};

-- search_image(image, k): the k images nearest to a picture, given as encode_image takes it.
-- Example: SELECT * FROM search_image(image = '/pictures/query.png', k = 9)
CREATE OR REPLACE VIEW search_image AS
WITH (SELECT (model, weights_hash) FROM encoder_weights) AS encoder
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_image({image:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND vdx_comparable(model, weights_hash, encoder)
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector(vector, k): the k images nearest to a vector, for example a classifier's weight.
-- Example: SELECT * FROM search_vector(vector = encode_text('a red circle'), k = 9)
CREATE OR REPLACE VIEW search_vector AS
WITH (SELECT (model, weights_hash) FROM encoder_weights) AS encoder
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, {vector:Array(Float32)}) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND vdx_comparable(model, weights_hash, encoder)
ORDER BY distance
LIMIT {k:UInt32};

-- search_id(image_id, k): the k images most similar to one of the table, itself left out.
-- Example: SELECT * FROM search_id(image_id = 42, k = 9)
CREATE OR REPLACE VIEW search_id AS
WITH (SELECT (model, weights_hash) FROM encoder_weights) AS encoder
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists,
        cosineDistance(vector, (
            SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
            HAVING NOT throwIf(count() = 0, 'search_id: no image has this image_id')
            SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + 1 + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND id != {image_id:UInt64} AND vdx_comparable(model, weights_hash, encoder)
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_excluding(query, exclude, k): as search_text, without the images whose ids are listed.
-- Example: SELECT * FROM search_text_excluding(query = 'a red circle', exclude = [42, 43], k = 9)
CREATE OR REPLACE VIEW search_text_excluding AS
WITH (SELECT (model, weights_hash) FROM encoder_weights) AS encoder
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, model, weights_hash, loaded_at, _row_exists, cosineDistance(vector, encode_text({query:String})) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + length({exclude:Array(UInt64)}) + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
    AND NOT has({exclude:Array(UInt64)}, id) AND vdx_comparable(model, weights_hash, encoder)
ORDER BY distance
LIMIT {k:UInt32};

-- search_near_where(vector, concept, image_id, dataset, attribute, value, k): what the next three and best_scores share: the
-- target is the concept's current weight, else the vector of the image, else the vector given. Takes the k best of the
-- index's 1000 nearest where as many pass the filter; a filter that leaves fewer is searched exactly, so no match is missed.
-- Example: SELECT * FROM search_near_where(vector = encode_text('a red circle'), concept = '', image_id = 0, dataset = '', attribute = '', value = '', k = 9)
CREATE OR REPLACE VIEW search_near_where AS
WITH
    (
        SELECT multiIf(
            {concept:String} != '',
            (SELECT argMax(weight, (round, created_at)) FROM classifiers WHERE concept = {concept:String}
                SETTINGS apply_deleted_mask = 1),
            {image_id:UInt64} != 0,
            (
                SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
                HAVING NOT throwIf({image_id:UInt64} != 0 AND count() = 0, 'no image has this image_id')
                SETTINGS apply_deleted_mask = 1
            ),
            {vector:Array(Float32)})
        FROM comparable
    ) AS target,
    near AS
    (
        SELECT id, source, dataset, distance
        FROM
        (
            SELECT id, source, dataset, attributes, loaded_at, _row_exists, cosineDistance(vector, (SELECT target)) AS distance
            FROM images
            ORDER BY distance
            LIMIT 1000
            SETTINGS apply_deleted_mask = 0
        )
        WHERE _row_exists AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
            AND ({dataset:String} = '' OR dataset = {dataset:String})
            AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
        ORDER BY distance
        LIMIT {k:UInt32}
    ),
    (SELECT count() FROM near) AS found
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, distance FROM near WHERE found = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, cosineDistance(vector, (SELECT target)) + 0 AS distance
    FROM current_images
    WHERE found < {k:UInt32}
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector_where(vector, dataset, attribute, value, k): as search_vector within one data set ('' for all) and, unless
-- attribute is '', with attributes[attribute] = value; no match is missed.
-- Example: SELECT * FROM search_vector_where(vector = encode_text('a red circle'), dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_vector_where AS
SELECT id, source, dataset, distance
FROM search_near_where(vector = {vector:Array(Float32)}, concept = '', image_id = 0, dataset = {dataset:String},
    attribute = {attribute:String}, value = {value:String}, k = {k:UInt32});

-- search_text_where(query, dataset, attribute, value, k): the same for a text.
-- Example: SELECT * FROM search_text_where(query = 'a red circle', dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_text_where AS
SELECT id, source, dataset, distance
FROM search_near_where(vector = encode_text({query:String}), concept = '', image_id = 0, dataset = {dataset:String},
    attribute = {attribute:String}, value = {value:String}, k = {k:UInt32});

-- search_id_where(image_id, dataset, attribute, value, k): the same for an image of the table, which is its own nearest.
-- Example: SELECT * FROM search_id_where(image_id = 42, dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_id_where AS
SELECT id, source, dataset, distance
FROM search_near_where(vector = CAST([], 'Array(Float32)'), concept = '', image_id = {image_id:UInt64}, dataset = {dataset:String},
    attribute = {attribute:String}, value = {value:String}, k = {k:UInt32});
