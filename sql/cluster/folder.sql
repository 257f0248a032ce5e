-- A folder of pictures, as datasets/folder.sql, onto the shards of a cluster. The node that is asked reads the files and sends each
-- picture to the shard that its id names; that shard embeds it. Run it again at any time:
--   vdx load sql/cluster/folder.sql /pictures --param dataset=holiday --url http://user:password@node:8123/vdx
-- parameter: path  a folder, or a glob such as /pictures/2024*/*.jpg
-- parameter: dataset = folder  the name that the pictures get
-- From a bucket: SELECT {dataset:String}, _path, raw_blob FROM s3('https://bucket.s3.amazonaws.com/pictures/*.jpg', RawBLOB); with
-- s3Cluster('{cluster}', ...) all nodes read it.

-- for each: SELECT toString(now64(3)) AS began
INSERT INTO inputs (dataset, source, arrived)
SELECT {dataset:String}, source, sipHash64({dataset:String}, source) GLOBAL IN (
        SELECT id FROM current_images WHERE dataset = {dataset:String}
        UNION ALL
        SELECT id FROM current_rejects WHERE dataset = {dataset:String})
FROM folder_files(path = {path:String})
WHERE is_picture
SETTINGS distributed_foreground_insert = 1;

SELECT throwIf(count() = 0, format('no pictures: there are none in {}', {path:String}))
FROM inputs
WHERE dataset = {dataset:String} AND seen_at >= {began:DateTime64(3)}
FORMAT Null;

-- In the foreground: what a shard cannot take fails here, and a block is done when it is stored there. The inner SELECT is answered
-- by the shards, the files are read here.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM current_images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM current_rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes)
SELECT {dataset:String}, source, vdx_read(source).bytes
FROM (SELECT source FROM inputs FINAL WHERE dataset = {dataset:String} AND seen_at >= {began:DateTime64(3)})
SETTINGS distributed_foreground_insert = 1, max_threads = 4, max_block_size = 32, min_insert_block_size_rows = 4096,
    min_insert_block_size_bytes = 268435456, materialize_skip_indexes_on_insert = 0;
-- end

-- Hidden rows, superseded or deleted, leave their parts where they are many; few cost a search next to nothing.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND hidden > 0 AND (hidden * 10 > images OR (SELECT hidden FROM hidden_rows) > 500)
ALTER TABLE vdx_shard.images ON CLUSTER '{cluster}' DELETE IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
WHERE (id, loaded_at) IN (SELECT id, loaded_at FROM vdx_shard.superseded_images)
SETTINGS mutations_sync = 1;
ALTER TABLE vdx_shard.images ON CLUSTER '{cluster}' APPLY DELETED MASK IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

-- Each shard builds its own graphs, all at once. A replica is given its parts with their index.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND images_without_index * 10 > images
ALTER TABLE vdx_shard.images ON CLUSTER '{cluster}' MATERIALIZE INDEX vector_index
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
