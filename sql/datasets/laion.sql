-- LAION-400M, or any set in its form: shards of img_emb_N.npy, text_emb_N.npy (float16, rows x 512) and
-- metadata_N.parquet, joined by position, with the captions as they are. A shard goes in whole or not at all; run it
-- again for the shards that are missing:
--   vdx load laion /data/laion
--   vdx load laion '/data/laion/img_emb/img_emb_{0..9}.npy' --param index=no
-- parameter: path  a folder of shards, or a glob of their img_emb files; the other two lie beside them or in text_emb/ and metadata/
-- parameter: model = ViT-B-32/openai  the model that made the embeddings
-- parameter: index = yes  no: leave the two vector indexes for another load, which says yes; merges build none until then
-- A client other than vdx load is told image_file, text_file, metadata_file and shard as well, once for each shard.

-- laion: one row per picture and caption, columns as published. The row's number in its shard is its id.
-- Example: SELECT shard, count() FROM laion GROUP BY shard
CREATE TABLE IF NOT EXISTS laion
(
    id Int64,
    url String,
    caption String,
    NSFW LowCardinality(String),
    similarity Float32,
    image_embedding Array(Float32) CODEC(NONE),
    text_embedding Array(Float32) CODEC(NONE),
    shard UInt32,
    model LowCardinality(String),
    CONSTRAINT vector_lengths CHECK length(image_embedding) = 512 /* dimension */ AND length(text_embedding) = 512 /* dimension */,
    INDEX image_index image_embedding TYPE vector_similarity('hnsw', 'cosineDistance', 512 /* dimension */, 'bf16', 64, 256),
    INDEX text_index text_embedding TYPE vector_similarity('hnsw', 'cosineDistance', 512 /* dimension */, 'bf16', 64, 256)
)
ENGINE = MergeTree PARTITION BY model ORDER BY id;

-- laion_shards: how many rows each shard has, noted before it is shown in laion; fewer there means that it was stopped.
-- Example: SELECT sum(rows) FROM laion_shards
CREATE TABLE IF NOT EXISTS laion_shards (model LowCardinality(String), shard UInt32, rows UInt64, loaded_at DateTime64(3) DEFAULT now64(3))
ENGINE = ReplacingMergeTree(loaded_at) ORDER BY (model, shard);

-- laion_loading: the shard that is being read. It merges nothing, since its parts move to laion at once.
-- Example: SELECT count() FROM laion_loading
CREATE TABLE IF NOT EXISTS laion_loading AS laion
ENGINE = MergeTree PARTITION BY model ORDER BY id
SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1;

-- laion_comparable: one row where the encoder runs the model that made laion's embeddings; otherwise an error.
-- Example: SELECT encode_text('a red circle') FROM laion_comparable
CREATE OR REPLACE VIEW laion_comparable AS
WITH
    (SELECT encoder_info()['model']) AS running,
    (SELECT groupUniqArray(model::String) FROM (SELECT model FROM laion WHERE model != running GROUP BY model)) AS others
SELECT 1 AS yes
WHERE NOT throwIf(notEmpty(others), format(
    'the embeddings of laion are by {}, but the encoder runs {}, and vectors of different models do not compare: run'
    || ' vdx install with the model of the embeddings', arrayStringConcat(others, ', '), running));

-- laion_search_text(query, k): the k pictures nearest to a text.
-- Example: SELECT * FROM laion_search_text(query = 'a red circle', k = 9)
CREATE OR REPLACE VIEW laion_search_text AS
SELECT id, shard, url, caption, cosineDistance(image_embedding, (SELECT encode_text({query:String}) FROM laion_comparable)) AS distance
FROM laion
ORDER BY distance
LIMIT {k:UInt32};

-- laion_search_captions(query, k): the k captions nearest to a text.
-- Example: SELECT * FROM laion_search_captions(query = 'a red circle', k = 9)
CREATE OR REPLACE VIEW laion_search_captions AS
SELECT id, shard, url, caption, cosineDistance(text_embedding, (SELECT encode_text({query:String}) FROM laion_comparable)) AS distance
FROM laion
ORDER BY distance
LIMIT {k:UInt32};

-- laion_search_image(image, k): the k pictures nearest to a picture, given as encode_image takes it.
-- Example: SELECT * FROM laion_search_image(image = '/pictures/query.png', k = 9)
CREATE OR REPLACE VIEW laion_search_image AS
SELECT id, shard, url, caption, cosineDistance(image_embedding, (SELECT encode_image({image:String}) FROM laion_comparable)) AS distance
FROM laion
ORDER BY distance
LIMIT {k:UInt32};

-- vdx_laion_shards(path): a folder as the glob of all img_emb files below it; anything else as it is.
-- Example: SELECT vdx_laion_shards('/data/laion')
CREATE OR REPLACE FUNCTION vdx_laion_shards AS (path) ->
    if(endsWith(path, '.npy'), path, trimRight(path, '/') || '/**/img_emb_*.npy');

-- laion_files(path): the shards that a path names, and the three files of each.
-- Example: SELECT shard, image_file FROM laion_files(path = '/data/laion')
CREATE OR REPLACE VIEW laion_files AS
SELECT
    toUInt32(extract(_file, '(\\d+)\\.npy$')) AS shard,
    _path AS image_file,
    replaceAll(_path, 'img_emb', 'text_emb') AS text_file,
    replaceAll(replaceAll(_path, 'img_emb', 'metadata'), '.npy', '.parquet') AS metadata_file
FROM file(vdx_laion_shards({path:String}), One);

SELECT throwIf(count() = 0, concat('no shards: nothing matches ', vdx_laion_shards({path:String})))
FROM laion_files(path = {path:String})
FORMAT Null;

-- The files' headers tell their lengths, so a shard whose files do not belong together is known before anything is read.
-- for each: SELECT * FROM laion_files(path = {path:String}) ORDER BY shard
WITH
    (SELECT count() FROM file({image_file:String}, Npy)) AS images,
    (SELECT count() FROM file({text_file:String}, Npy)) AS texts,
    (SELECT count() FROM file({metadata_file:String}, Parquet)) AS rows
SELECT throwIf(images != rows OR texts != rows, format(
    'the files of a shard differ in length: {} rows in {}, {} in {}, {} in {}; nothing was loaded',
    toString(images), {image_file:String}, toString(texts), {text_file:String}, toString(rows), {metadata_file:String}))
SETTINGS use_cache_for_count_from_files = 0 -- which would know a file that was replaced in the same second by its old length
FORMAT Null;
-- end

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE laion MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- What a stop left of a shard.
-- for each: SELECT shard FROM (SELECT shard, count() AS there FROM laion WHERE model = {model:String} GROUP BY shard) AS found LEFT ANY JOIN (SELECT shard, rows FROM laion_shards FINAL WHERE model = {model:String}) AS noted USING (shard) WHERE there != rows
DELETE FROM laion WHERE shard = {shard:UInt32} AND model = {model:String};
-- end

-- for each: SELECT * FROM laion_files(path = {path:String}) WHERE shard NOT IN (SELECT shard FROM laion WHERE model = {model:String}) ORDER BY shard
TRUNCATE TABLE laion_loading;

-- One thread: with more, PASTE JOIN now and then put vectors beside other rows (ClickHouse 26.9). Small blocks and no
-- memory-mapped files keep it within 0.9 GB, however long a shard is.
-- rows: SELECT count() FROM file({image_file:String}, Npy)
-- done: SELECT count() FROM laion_loading
INSERT INTO laion_loading (id, url, caption, NSFW, similarity, image_embedding, text_embedding, shard, model)
SELECT id, url, caption, NSFW, similarity, images.array, texts.array, {shard:UInt32}, {model:String}
FROM (SELECT rowNumberInAllBlocks() AS id, url, caption, NSFW, similarity FROM file({metadata_file:String}, Parquet)) AS metadata
PASTE JOIN file({image_file:String}, Npy) AS images
PASTE JOIN file({text_file:String}, Npy) AS texts
-- One number that is not finite would keep the whole part from its index.
WHERE isFinite(dotProduct(images.array, images.array)) AND isFinite(dotProduct(texts.array, texts.array))
SETTINGS max_threads = 1, input_format_parquet_preserve_order = 1, storage_file_read_method = 'pread', max_block_size = 4096,
    input_format_parquet_max_block_size = 4096, min_insert_block_size_rows = 4096,
    use_structure_from_insertion_table_in_table_functions = 0, materialize_skip_indexes_on_insert = 0;

-- for each: SELECT count() AS staged FROM laion_loading HAVING staged != (SELECT count() FROM file({image_file:String}, Npy))
INSERT INTO rejects (source, dataset, error, size)
SELECT concat(ifNull(url, ''), ' (row ', toString(id), ' of shard ', toString({shard:UInt32}), ')'), 'laion', 'an embedding is not finite', 0
FROM (SELECT rowNumberInAllBlocks() AS id, url FROM file({metadata_file:String}, Parquet)) AS metadata
PASTE JOIN file({image_file:String}, Npy) AS images
PASTE JOIN file({text_file:String}, Npy) AS texts
WHERE NOT (isFinite(dotProduct(images.array, images.array)) AND isFinite(dotProduct(texts.array, texts.array)))
SETTINGS max_threads = 1, input_format_parquet_preserve_order = 1, use_structure_from_insertion_table_in_table_functions = 0;
-- end

-- Before the rows move, so that a stop in the middle of that is noticed.
INSERT INTO laion_shards (model, shard, rows)
SELECT {model:String}, {shard:UInt32}, count() FROM laion_loading;

ALTER TABLE laion ATTACH PARTITION {model:String} FROM laion_loading;
-- end

TRUNCATE TABLE laion_loading;

-- Without indexes wanted, merges go on writing none: two graphs of many rows in the background would take all cores for minutes.
-- for each: SELECT 1 AS wanted WHERE {index:String} = 'yes'
ALTER TABLE laion RESET SETTING materialize_skip_indexes_on_merge;
-- end

-- One build a load. While less than a tenth is new, searching that part without an index is quicker than new graphs.
-- for each: SELECT 1 AS due FROM system.parts WHERE active AND database = currentDatabase() AND table = 'laion' HAVING {index:String} = 'yes' AND sumIf(rows, secondary_indices_compressed_bytes = 0) * 10 > sum(rows)
ALTER TABLE laion MATERIALIZE INDEX image_index SETTINGS mutations_sync = 1;
ALTER TABLE laion MATERIALIZE INDEX text_index SETTINGS mutations_sync = 1;
-- end

-- Every row of every shard is in laion or in rejects; anything else is an error.
SELECT
    count() AS shards,
    sum(noted.rows) AS rows,
    sum(there) AS images,
    (SELECT count() FROM rejects FINAL WHERE dataset = 'laion') AS rejects,
    throwIf(rows != images, 'some rows are missing: run the load again') AS missing
FROM (SELECT shard, rows FROM laion_shards FINAL WHERE model = {model:String}) AS noted
LEFT JOIN (SELECT shard, count() AS there FROM laion WHERE model = {model:String} GROUP BY shard) AS found USING (shard);
