-- Any folder of pictures. Each file becomes a row of images or of rejects; run it again at any time, only what is new or
-- changed is embedded:
--   vdx load folder /pictures --param dataset=holiday
-- parameter: path  a folder, or a glob such as /pictures/2024*/*.jpg
-- parameter: dataset = folder  the name that the pictures get
-- A bucket, a web server or a table needs no more than one INSERT; the rest is as below:
--   INSERT INTO inbox (dataset, source, bytes) SELECT 'holiday', _path, raw_blob FROM s3('https://bucket.s3.amazonaws.com/*.jpg', RawBLOB)
--   INSERT INTO inbox (dataset, source, bytes) SELECT 'holiday', _path, raw_blob FROM url('https://example.com/{1..9}.jpg', RawBLOB)
--   INSERT INTO inbox (dataset, source, bytes) SELECT 'holiday', key, content FROM pictures    -- bytes in a table
--   INSERT INTO inbox (dataset, source) SELECT 'holiday', url FROM links                       -- URLs, where the encoder may fetch

-- for each: SELECT toString(now64(3)) AS began
INSERT INTO inputs (dataset, source, arrived)
SELECT {dataset:String}, source, sipHash64({dataset:String}, source) GLOBAL IN (
        SELECT id FROM current_images WHERE dataset = {dataset:String}
        UNION ALL
        SELECT id FROM current_rejects WHERE dataset = {dataset:String})
FROM folder_files(path = {path:String})
WHERE is_picture;

SELECT throwIf(count() = 0, format('no pictures: there are none in {}', {path:String}))
FROM inputs
WHERE dataset = {dataset:String} AND seen_at >= {began:DateTime64(3)}
FORMAT Null;

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- A block of rows is what is read, embedded and stored at a time: it bounds memory, and what a stop can lose.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM current_images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM current_rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes)
SELECT dataset, source, vdx_read(source).bytes
FROM inputs FINAL
WHERE dataset = {dataset:String} AND seen_at >= {began:DateTime64(3)}
SETTINGS max_threads = 4, max_block_size = 32, min_insert_block_size_rows = 1024, min_insert_block_size_bytes = 67108864,
    materialize_skip_indexes_on_insert = 0;
-- end

-- Rows of one picture that two INSERTs brought at the same moment.
INSERT INTO superseded_images
SELECT id, loaded_at FROM superseded
WHERE dataset = {dataset:String} AND (id, loaded_at) NOT IN (SELECT id, loaded_at FROM superseded_images);

ALTER TABLE images RESET SETTING materialize_skip_indexes_on_merge;

-- Hidden rows, superseded or deleted, leave their parts where they are many; few cost a search next to nothing, and writing a part
-- anew builds its graph anew.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND hidden > 0 AND (hidden * 10 > images OR (SELECT hidden FROM hidden_rows) > 500)
ALTER TABLE images DELETE IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
WHERE (id, loaded_at) IN (SELECT id, loaded_at FROM superseded_images)
SETTINGS mutations_sync = 1;
ALTER TABLE images APPLY DELETED MASK IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

-- Rejects whose pictures were embedded since.
-- for each: SELECT count() AS mended FROM superseded_rejects HAVING mended > 0
DELETE FROM rejects WHERE (id, rejected_at) IN (SELECT id, rejected_at FROM superseded_rejects);
DELETE FROM superseded_rejects WHERE (id, rejected_at) NOT IN (SELECT id, rejected_at FROM rejects);
-- end

-- What is noted of rows that are gone, by this or by merges.
-- for each: SELECT count() AS gone FROM superseded_images WHERE (id, loaded_at) NOT IN (SELECT id, loaded_at FROM image_rows WHERE id IN (SELECT id FROM superseded_images)) HAVING gone > 0
DELETE FROM superseded_images
WHERE (id, loaded_at) NOT IN (SELECT id, loaded_at FROM image_rows WHERE id IN (SELECT id FROM superseded_images));
-- end

-- One build a load. While less than a tenth is new, searching that part without an index is quicker than a new graph. No deleted row
-- stays in a part that is indexed.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND images_without_index * 10 > images
ALTER TABLE images APPLY DELETED MASK IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
ALTER TABLE images MATERIALIZE INDEX vector_index
IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

SELECT what, pictures
FROM
(
    SELECT 1 AS part, rowNumberInAllBlocks() AS line, what, pictures FROM load_report(dataset = {dataset:String})
    UNION ALL
    SELECT 2, 0, what, pictures FROM passed_over(path = {path:String})
)
ORDER BY part, line;
