-- Any folder of pictures. Each file becomes a row of images or of rejects; run it again at any time, only what is new or
-- changed is embedded:
--   vdx load folder /pictures --param dataset=holiday
-- parameter: path  a folder, or a glob such as /pictures/2024*/*.jpg
-- parameter: dataset = folder  the name that the pictures get
-- A bucket, a web server or a table works the same way, with these lines in place of the INSERT's SELECT:
--   SELECT {dataset:String}, _path, raw_blob FROM s3('https://bucket.s3.amazonaws.com/pictures/*.jpg', RawBLOB)
--   SELECT {dataset:String}, _path, raw_blob FROM url('https://example.com/picture-{1..9}.jpg', RawBLOB)
--   SELECT {dataset:String}, key, content FROM pictures                              -- bytes in a table
--   SELECT {dataset:String}, url, '' FROM links                                      -- URLs, where the encoder may fetch

SELECT throwIf(count() = 0, concat('no pictures: nothing matches ', vdx_pictures({path:String})))
FROM file(vdx_pictures({path:String}), One)
FORMAT Null;

INSERT INTO inputs (dataset, source)
SELECT {dataset:String}, _path FROM file(vdx_pictures({path:String}), One);

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- A block of rows is what is read, embedded and stored at a time: it bounds memory, and what a stop can lose.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes)
SELECT {dataset:String}, _path, raw_blob FROM file(vdx_pictures({path:String}), RawBLOB)
UNION ALL
SELECT {dataset:String}, _path, '' FROM file(vdx_pictures({path:String}), One) WHERE _size = 0 -- RawBLOB gives no row for these
SETTINGS max_threads = 4, min_insert_block_size_rows = 1024, min_insert_block_size_bytes = 67108864,
    materialize_skip_indexes_on_insert = 0;

-- Pictures that changed since they were loaded: the newer row counts.
DELETE FROM images WHERE (id, loaded_at) IN
    (SELECT id, at FROM superseded WHERE dataset = {dataset:String} AND stands_in = 'images');
DELETE FROM rejects WHERE (id, rejected_at) IN
    (SELECT id, at FROM superseded WHERE dataset = {dataset:String} AND stands_in = 'rejects');

ALTER TABLE images RESET SETTING materialize_skip_indexes_on_merge;

-- One build a load. While less than a tenth is new, searching that part without an index is quicker than a new graph.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND images_without_index * 10 > images
ALTER TABLE images MATERIALIZE INDEX vector_index
IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

SELECT * FROM load_report(dataset = {dataset:String});
