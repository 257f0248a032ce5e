-- The bundle's objects on a cluster. `vdx install` fills in what the lines `-- here` name and lays the whole beside the other
-- SQL files; it runs once, on any node, and may run again at any time:
--   clickhouse-client --queries-file /var/lib/clickhouse/vdx_udf/sql/cluster/schema.sql
-- Each node carries the bundle with the same model, and the macros cluster, shard and replica.
--
-- vdx_shard holds a node's own pictures, embedded by the node's own encoder. vdx is where people work: its images, rejects, inputs,
-- inbox and kept_scores reach all shards, its labels and classifiers are the same rows on every node, its views are those of a
-- single server, word for word. A search is answered by each shard through its own index and merged by the node that was asked.

CREATE DATABASE IF NOT EXISTS vdx ON CLUSTER '{cluster}';
CREATE DATABASE IF NOT EXISTS vdx_shard ON CLUSTER '{cluster}';

USE vdx;
-- here: functions
-- here, the same rows on every node: schema_version labels classifiers prompt_templates kept_concepts near_pairs neighbours search_trials encoder_samples vocabulary kept_mistakes map_points

USE vdx_shard;
-- classifiers: of all nodes, for the scores of new images.
-- Example: SELECT concept, round FROM vdx_shard.classifiers
CREATE OR REPLACE VIEW classifiers ON CLUSTER '{cluster}' AS SELECT * FROM vdx.classifiers;

-- kept_concepts: of all nodes, likewise.
-- Example: SELECT concept FROM vdx_shard.kept_concepts
CREATE OR REPLACE VIEW kept_concepts ON CLUSTER '{cluster}' AS SELECT * FROM vdx.kept_concepts;

-- here, each shard's own rows: images rejects inputs inbox embedded superseded_images image_rows images_supersede rejects_supersede superseded_rejects images_supersede_rejects current_images current_rejects inbox_embed arrivals embedded_arrivals arrival_rows arrivals_clash embedded_images embedded_rejects embedded_inputs kept_scores kept_scores_of_new index_status thumbnails picture_facts regions

USE vdx;
-- images: of all shards. A row that is inserted goes to the shard that its id names.
-- Example: SELECT dataset, count() FROM vdx.images GROUP BY dataset
CREATE TABLE IF NOT EXISTS images ON CLUSTER '{cluster}' AS vdx_shard.images
ENGINE = Distributed('{cluster}', vdx_shard, images, id);

-- rejects: of all shards.
-- Example: SELECT error, count() FROM vdx.rejects GROUP BY error
CREATE TABLE IF NOT EXISTS rejects ON CLUSTER '{cluster}' AS vdx_shard.rejects
ENGINE = Distributed('{cluster}', vdx_shard, rejects, id);

-- inputs: of all shards.
-- Example: SELECT dataset, count() FROM vdx.inputs GROUP BY dataset
CREATE TABLE IF NOT EXISTS inputs ON CLUSTER '{cluster}' AS vdx_shard.inputs
ENGINE = Distributed('{cluster}', vdx_shard, inputs, id);

-- inbox: insert pictures here; each is sent to the shard that its id will name, and embedded there.
-- Example: INSERT INTO vdx.inbox (dataset, source, bytes) SELECT 'holiday', 'example.png', 'no picture' SETTINGS distributed_foreground_insert = 1
CREATE TABLE IF NOT EXISTS inbox ON CLUSTER '{cluster}' AS vdx_shard.inbox
ENGINE = Distributed('{cluster}', vdx_shard, inbox, sipHash64(dataset, source));

-- superseded_images: of all shards, each of its own images.
-- Example: SELECT count() FROM vdx.superseded_images
CREATE TABLE IF NOT EXISTS superseded_images ON CLUSTER '{cluster}' AS vdx_shard.superseded_images
ENGINE = Distributed('{cluster}', vdx_shard, superseded_images, id);

-- superseded_rejects: of all shards likewise.
-- Example: SELECT count() FROM vdx.superseded_rejects
CREATE TABLE IF NOT EXISTS superseded_rejects ON CLUSTER '{cluster}' AS vdx_shard.superseded_rejects
ENGINE = Distributed('{cluster}', vdx_shard, superseded_rejects, id);

-- kept_scores: of all shards, each with its own images.
-- Example: SELECT concept, count() FROM vdx.kept_scores GROUP BY concept
CREATE TABLE IF NOT EXISTS kept_scores ON CLUSTER '{cluster}' AS vdx_shard.kept_scores
ENGINE = Distributed('{cluster}', vdx_shard, kept_scores, image_id);

-- thumbnails: of all shards, each those that its content's hash names.
-- Example: SELECT side, count() FROM vdx.thumbnails GROUP BY side
CREATE TABLE IF NOT EXISTS thumbnails ON CLUSTER '{cluster}' AS vdx_shard.thumbnails
ENGINE = Distributed('{cluster}', vdx_shard, thumbnails, cityHash64(content_hash));

-- picture_facts: of all shards, each those that its content's hash names.
-- Example: SELECT format, count() FROM vdx.picture_facts GROUP BY format
CREATE TABLE IF NOT EXISTS picture_facts ON CLUSTER '{cluster}' AS vdx_shard.picture_facts
ENGINE = Distributed('{cluster}', vdx_shard, picture_facts, cityHash64(content_hash));

-- regions: of all shards, each of its own images.
-- Example: SELECT dataset, count() FROM vdx.regions GROUP BY dataset
CREATE TABLE IF NOT EXISTS regions ON CLUSTER '{cluster}' AS vdx_shard.regions
ENGINE = Distributed('{cluster}', vdx_shard, regions, image_id);

-- index_status: of all shards, as vdx_shard.index_status on each.
-- Example: SELECT dataset, images, images_without_index FROM vdx.index_status
CREATE OR REPLACE VIEW index_status ON CLUSTER '{cluster}' AS
SELECT dataset, model, weights_hash, sum(images) AS images, sum(images_without_index) AS images_without_index, sum(hidden) AS hidden,
    sum(data_bytes) AS data_bytes, sum(index_bytes) AS index_bytes
FROM cluster('{cluster}', vdx_shard, index_status)
GROUP BY dataset, model, weights_hash;

-- here: image_rows current_images current_rejects

-- here: everything else
