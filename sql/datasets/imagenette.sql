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
FROM images
WHERE dataset = 'imagenette';

-- imagenette_zero_shot(template_set): how many of each class the class names alone get right.
-- Example: SELECT * FROM imagenette_zero_shot(template_set = 'default')
CREATE OR REPLACE VIEW imagenette_zero_shot AS
WITH (
    SELECT (groupArray(label), groupArray(embedding))
    FROM
    (
        SELECT class AS label, vdx_normalize(avgForEach(encode_text(vdx_prompt(template, class)))) AS embedding
        FROM prompt_templates
        CROSS JOIN imagenette_classes
        WHERE template_set = {template_set:String}
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

SELECT throwIf(count() = 0, concat('no pictures: nothing matches ', {path:String}, '/{train,val}/n*/*.JPEG'))
FROM file(concat(trimRight({path:String}, '/'), '/{train,val}/n*/*.JPEG'), One)
FORMAT Null;

INSERT INTO inputs (dataset, source)
SELECT {dataset:String}, _path FROM file(concat(trimRight({path:String}, '/'), '/{train,val}/n*/*.JPEG'), One);

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- A block of rows is what is read, embedded and stored at a time: it bounds memory, and what a stop can lose.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes, attributes)
WITH
    extractGroups(_path, '/(train|val)/(n\\d+)/[^/]+$') AS place,
    (SELECT CAST((groupArray(wnid), groupArray(class)), 'Map(String, String)') FROM imagenette_classes) AS classes,
    map('split', place[1], 'wnid', place[2], 'class', classes[place[2]]) AS known
SELECT {dataset:String}, _path, raw_blob, known
FROM file(concat(trimRight({path:String}, '/'), '/{train,val}/n*/*.JPEG'), RawBLOB)
UNION ALL
SELECT {dataset:String}, _path, '', known
FROM file(concat(trimRight({path:String}, '/'), '/{train,val}/n*/*.JPEG'), One)
WHERE _size = 0 -- RawBLOB gives no row for these
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
