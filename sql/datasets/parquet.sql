-- Parquet in: pictures that were embedded elsewhere, with their vectors. Rows that are there already are passed over.
--   vdx load parquet /data/holiday.parquet
-- The columns are those of `portable`; source, vector and model are needed, others may be missing. Parquet out is one
-- statement, and what it writes comes in again on any server:
--   INSERT INTO FUNCTION file('holiday.parquet', Parquet) SELECT * FROM portable WHERE dataset = 'holiday'
-- parameter: path  a Parquet file, or a glob of several
-- parameter: dataset =  a data set for all rows; empty: each row's own

INSERT INTO inputs (dataset, source)
SELECT if({dataset:String} = '', dataset, {dataset:String}), source
FROM file({path:String}, Parquet, 'source String, dataset String')
SETTINGS input_format_parquet_allow_missing_columns = 1;

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- Vectors are scaled to length 1, which those of CLIP have; one that cannot be is a reject.
INSERT INTO embedded (source, dataset, model, weights_hash, preprocessing, content_hash, encoded, caption, attributes, size)
WITH
    if({dataset:String} = '', dataset, {dataset:String}) AS name,
    dotProduct(vector, vector) AS norm,
    multiIf(
        empty(model), 'the row names no model',
        length(vector) != 512 /* dimension */, format('a vector of {} numbers where images takes {}', toString(length(vector)), toString(512 /* dimension */)),
        NOT (isFinite(norm) AND norm > 0), 'a vector that is zero or not finite',
        '') AS error
SELECT source, name, model, weights_hash, preprocessing, content_hash,
    (if(error != '', [], if(abs(norm - 1) < 1e-3, vector, vdx_normalize(vector)))::Array(Float32), error),
    caption, attributes, size
FROM file({path:String}, Parquet,
    'source String, dataset String, model String, weights_hash String, preprocessing String, content_hash FixedString(32),
    vector Array(Float32), caption String, attributes Map(String, String), size UInt64')
WHERE (sipHash64(name, source), model, weights_hash) NOT IN (SELECT id, model, weights_hash FROM current_images)
    AND sipHash64(name, source) NOT IN (SELECT id FROM current_rejects)
SETTINGS input_format_parquet_allow_missing_columns = 1, max_block_size = 8192, min_insert_block_size_rows = 16384,
    materialize_skip_indexes_on_insert = 0, use_structure_from_insertion_table_in_table_functions = 0;

ALTER TABLE images RESET SETTING materialize_skip_indexes_on_merge;

-- for each: SELECT dataset, model, weights_hash FROM index_status WHERE images_without_index * 10 > images
ALTER TABLE images MATERIALIZE INDEX vector_index
IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

-- Every row is an image or a reject; anything else is an error.
SELECT count() AS inputs, countIf(is_image) AS images, countIf(is_reject) AS rejects,
    throwIf(inputs != images + rejects, 'some rows are neither in images nor in rejects: run the load again') AS missing
FROM
(
    SELECT sipHash64(if({dataset:String} = '', dataset, {dataset:String}), source) AS id,
        id IN (SELECT id FROM current_images) AS is_image, NOT is_image AND id IN (SELECT id FROM current_rejects) AS is_reject
    FROM file({path:String}, Parquet, 'source String, dataset String')
    SETTINGS input_format_parquet_allow_missing_columns = 1
);
