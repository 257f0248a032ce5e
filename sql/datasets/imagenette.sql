-- Imagenette: the folder as published, {train,val}/<wnid>/*.JPEG in ten classes. Run it again for what is new or changed:
--   vdx load imagenette /data/imagenette2-160
-- parameter: path  the folder that holds train and val
-- parameter: dataset = imagenette  the name that the pictures get; the views below read this one

-- imagenette_classes: the ten classes, as ImageNet numbers and names them.
-- Example: SELECT class FROM imagenette_classes
CREATE OR REPLACE VIEW imagenette_classes AS
SELECT known.1 AS wnid, known.2 AS class
FROM
(
    SELECT arrayJoin([
        ('n01440764', 'tench'),
        ('n02102040', 'English springer'),
        ('n02979186', 'cassette player'),
        ('n03000684', 'chain saw'),
        ('n03028079', 'church'),
        ('n03394916', 'French horn'),
        ('n03417042', 'garbage truck'),
        ('n03425413', 'gas pump'),
        ('n03445777', 'golf ball'),
        ('n03888257', 'parachute')
    ]) AS known
);

-- imagenette: the pictures with their split and class.
-- Example: SELECT split, class, count() FROM imagenette GROUP BY split, class
CREATE OR REPLACE VIEW imagenette AS
SELECT id, source, attributes['split'] AS split, attributes['class'] AS class, vector
FROM current_images
WHERE dataset = 'imagenette';

-- imagenette_zero_shot(template_set): how many of each class the class names alone get right.
-- Example: SELECT * FROM imagenette_zero_shot(template_set = 'default')
CREATE OR REPLACE VIEW imagenette_zero_shot AS
WITH (
    SELECT (groupArray(label), groupArray(embedding))
    FROM
    (
        SELECT class AS label, vdx_normalize(avgForEach(encode_text(vdx_prompt(template, class)))) AS embedding
        FROM templates_of(template_set = {template_set:String}) AS templates
        CROSS JOIN imagenette_classes
        GROUP BY class
    ) AS classes
    CROSS JOIN comparable
) AS known
SELECT class, count() AS images, avg(known.1[indexOf(products, arrayMax(products))] = class) AS accuracy
FROM (SELECT class, arrayMap(embedding -> dotProduct(vector, embedding), known.2) AS products FROM imagenette)
GROUP BY class
ORDER BY class;

-- imagenette_neighbours(k): how many of each class of val the most frequent class of their k nearest pictures of train gets
-- right; of equally frequent classes the nearer one counts.
-- Example: SELECT * FROM imagenette_neighbours(k = 5)
CREATE OR REPLACE VIEW imagenette_neighbours AS
SELECT wanted AS class, count() AS images, avg(found = wanted) AS accuracy
FROM
(
    SELECT val.id AS id, any(val.class) AS wanted,
        arraySlice(arraySort(groupArray((cosineDistance(val.vector, train.vector), train.class))), 1, {k:UInt32}).2 AS nearest,
        arraySort(class -> (-countEqual(nearest, class), indexOf(nearest, class)), nearest)[1] AS found
    FROM (SELECT id, class, vector FROM imagenette WHERE split = 'val') AS val
    CROSS JOIN (SELECT class, vector FROM imagenette WHERE split = 'train') AS train
    GROUP BY val.id
)
GROUP BY wanted
ORDER BY wanted;

-- for each: SELECT toString(now64(3)) AS began
INSERT INTO inputs (dataset, source, arrived)
SELECT {dataset:String}, source, sipHash64({dataset:String}, source) GLOBAL IN (
        SELECT id FROM current_images WHERE dataset = {dataset:String}
        UNION ALL
        SELECT id FROM current_rejects WHERE dataset = {dataset:String})
FROM folder_files(path = {path:String})
WHERE is_picture AND match(source, '/(train|val)/n\\d+/[^/]+$');

SELECT throwIf(count() = 0, format('no pictures: there are none in {}/train/n*/ or {}/val/n*/', {path:String}, {path:String}))
FROM inputs
WHERE dataset = {dataset:String} AND seen_at >= {began:DateTime64(3)}
FORMAT Null;

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- A block of rows is what is read, embedded and stored at a time: it bounds memory, and what a stop can lose.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM current_images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM current_rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes, attributes)
WITH
    extractGroups(source, '/(train|val)/(n\\d+)/[^/]+$') AS place,
    (SELECT CAST((groupArray(wnid), groupArray(class)), 'Map(String, String)') FROM imagenette_classes) AS classes
SELECT dataset, source, vdx_read(source).bytes, map('split', place[1], 'wnid', place[2], 'class', classes[place[2]])
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

SELECT * FROM load_report(dataset = {dataset:String});
