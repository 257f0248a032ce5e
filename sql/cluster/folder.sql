-- A folder of pictures, as datasets/folder.sql, onto the shards of a cluster. The node that is asked reads the files and sends each
-- picture to the shard that its id names; that shard embeds it. Run it again at any time:
--   vdx load sql/cluster/folder.sql /pictures --param dataset=holiday --url http://user:password@node:8123/vdx
-- parameter: path  a folder, or a glob such as /pictures/2024*/*.jpg
-- parameter: dataset = folder  the name that the pictures get
-- From a bucket: SELECT {dataset:String}, _path, raw_blob FROM s3('https://bucket.s3.amazonaws.com/pictures/*.jpg', RawBLOB); with
-- s3Cluster('{cluster}', ...) all nodes read it.

SELECT throwIf(count() = 0, concat('no pictures: nothing matches ', vdx_pictures({path:String})))
FROM file(vdx_pictures({path:String}), One)
FORMAT Null;

INSERT INTO inputs (dataset, source)
SELECT {dataset:String}, _path FROM file(vdx_pictures({path:String}), One)
SETTINGS distributed_foreground_insert = 1;

-- In the foreground: what a shard cannot take fails here, and a block is done when it is stored there.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes)
SELECT {dataset:String}, _path, raw_blob FROM file(vdx_pictures({path:String}), RawBLOB)
UNION ALL
SELECT {dataset:String}, _path, '' FROM file(vdx_pictures({path:String}), One) WHERE _size = 0 -- RawBLOB gives no row for these
SETTINGS distributed_foreground_insert = 1, max_threads = 4, min_insert_block_size_rows = 4096,
    min_insert_block_size_bytes = 268435456, materialize_skip_indexes_on_insert = 0;

-- Pictures that changed since they were loaded: the newer row counts.
DELETE FROM vdx_shard.images ON CLUSTER '{cluster}' WHERE (id, loaded_at) IN
    (SELECT id, at FROM vdx_shard.superseded WHERE dataset = {dataset:String} AND stands_in = 'images');
DELETE FROM vdx_shard.rejects ON CLUSTER '{cluster}' WHERE (id, rejected_at) IN
    (SELECT id, at FROM vdx_shard.superseded WHERE dataset = {dataset:String} AND stands_in = 'rejects');

-- Each shard builds its own graphs, all at once. A replica is given its parts with their index.
-- for each: SELECT model, weights_hash FROM index_status WHERE dataset = {dataset:String} AND images_without_index * 10 > images
ALTER TABLE vdx_shard.images ON CLUSTER '{cluster}' MATERIALIZE INDEX vector_index
IN PARTITION ({dataset:String}, {model:String}, {weights_hash:String})
SETTINGS mutations_sync = 1;
-- end

SELECT * FROM load_report(dataset = {dataset:String});
