-- Unsplash Lite: photos.tsv* and conversions.tsv*, and the pictures from a folder of PHOTO_ID.jpg or, where the encoder may
-- fetch URLs (vdx install --urls https://images.unsplash.com), from photo_image_url with a suffix that asks for a small size.
-- Run it again for what is new, changed or missing:
--   vdx load unsplash /data/unsplash --param pictures=/data/unsplash/pictures
-- parameter: path  the folder that holds photos.tsv000 and conversions.tsv000
-- parameter: pictures =  a folder of pictures named by photo_id; empty: by URL
-- parameter: suffix = ?q=75&fm=jpg&w=200&fit=max  what is appended to each photo_image_url
-- parameter: dataset = unsplash  the name that the pictures get; the views below read this one

-- unsplash_photos: the photos' own columns, one row a photo.
-- Example: SELECT photo_id, photo_image_url FROM unsplash_photos FINAL LIMIT 3
CREATE TABLE IF NOT EXISTS unsplash_photos
(
    photo_id String,
    photo_url String,
    photo_image_url String,
    photo_description String,
    ai_description String,
    photographer_username String,
    photo_width UInt32,
    photo_height UInt32,
    stats_views UInt64,
    stats_downloads UInt64
)
ENGINE = ReplacingMergeTree ORDER BY photo_id;

-- unsplash_conversions: one row a download, with the keyword that was searched.
-- Example: SELECT keyword, count() FROM unsplash_conversions GROUP BY keyword
CREATE TABLE IF NOT EXISTS unsplash_conversions
(
    photo_id String,
    keyword String,
    converted_at DateTime,
    conversion_country LowCardinality(String)
)
ENGINE = MergeTree ORDER BY photo_id;

-- unsplash_sources(pictures, suffix): where each photo's picture is or should be, and the file's size, 0 without one.
-- Example: SELECT * FROM unsplash_sources(pictures = '', suffix = '?w=200')
CREATE OR REPLACE VIEW unsplash_sources AS
SELECT
    photo_id,
    multiIf(
        {pictures:String} = '', concat(photo_image_url, {suffix:String}),
        place != '', place,
        concat(trimRight({pictures:String}, '/'), '/', photo_id, '.jpg')) AS source,
    size,
    if(photo_description != '', photo_description, ai_description) AS caption
FROM (SELECT photo_id, photo_image_url, photo_description, ai_description FROM unsplash_photos FINAL) AS photos
LEFT ANY JOIN
(
    SELECT extract(source, '([^/]*)\\.\\w+$') AS photo_id, source AS place, size
    FROM folder_files(path = {pictures:String})
    WHERE is_picture
) AS files USING (photo_id);

-- unsplash: the embedded photos. Vectors of another length than the model's cannot get in (the constraint of images).
-- Example: SELECT photo_id, source FROM unsplash LIMIT 3
CREATE OR REPLACE VIEW unsplash AS
SELECT attributes['photo_id'] AS photo_id, id, source, caption, vector
FROM current_images
WHERE dataset = 'unsplash';

-- unsplash_random: one photo, another each time.
-- Example: SELECT photo_id, source FROM unsplash_random
CREATE OR REPLACE VIEW unsplash_random AS
SELECT photo_id, source, caption
FROM unsplash
ORDER BY rand()
LIMIT 1;

-- unsplash_similar(photo_id, k): the k photos most similar to one, itself left out, the nearest first.
-- Example: SELECT * FROM unsplash_similar(photo_id = 'photo000001', k = 10)
CREATE OR REPLACE VIEW unsplash_similar AS
SELECT attributes['photo_id'] AS candidate, source, distance
FROM
(
    SELECT attributes, source, id, loaded_at, _row_exists,
        cosineDistance(vector, (
            SELECT groupArray(1)(vector)[1] FROM unsplash CROSS JOIN comparable WHERE photo_id = {photo_id:String}
            HAVING NOT throwIf(count() = 0, 'unsplash_similar: no photo has this photo_id')
            SETTINGS apply_deleted_mask = 1)) AS distance
    FROM images
    WHERE dataset = 'unsplash'
    ORDER BY distance
    LIMIT {k:UInt32} + 1 + (SELECT hidden FROM hidden_rows)
    SETTINGS apply_deleted_mask = 0
)
WHERE _row_exists AND (id, loaded_at) NOT IN (SELECT id, loaded_at FROM superseded_images) AND candidate != {photo_id:String}
ORDER BY distance
LIMIT {k:UInt32};

-- unsplash_downloads(photo_id, k): how often each of the k most similar photos was downloaded, the most popular first.
-- Example: SELECT * FROM unsplash_downloads(photo_id = 'photo000001', k = 10)
CREATE OR REPLACE VIEW unsplash_downloads AS
SELECT candidate, any(similar.source) AS source, any(similar.distance) AS distance, countIf(conversions.photo_id != '') AS downloads
FROM unsplash_similar(photo_id = {photo_id:String}, k = {k:UInt32}) AS similar
LEFT JOIN unsplash_conversions AS conversions ON conversions.photo_id = similar.candidate
GROUP BY candidate
ORDER BY downloads DESC, distance;

-- unsplash_keywords(photo_id, k): the five keywords that led to most downloads of the most popular of the k candidates.
-- Example: SELECT * FROM unsplash_keywords(photo_id = 'photo000001', k = 10)
CREATE OR REPLACE VIEW unsplash_keywords AS
SELECT photo_id AS candidate, keyword, count() AS downloads
FROM unsplash_conversions
WHERE photo_id = (SELECT candidate FROM unsplash_downloads(photo_id = {photo_id:String}, k = {k:UInt32}) LIMIT 1)
GROUP BY photo_id, keyword
ORDER BY downloads DESC, keyword
LIMIT 5;

-- The files are CSV with tabs between the fields: quoted fields hold tabs, quotes and line breaks.
INSERT INTO unsplash_photos
SELECT * FROM file(
    concat(vdx_literal(trimRight({path:String}, '/')), '/photos.{tsv,csv}*'), CustomSeparatedWithNames,
    'photo_id String, photo_url String, photo_image_url String, photo_description String, ai_description String,
    photographer_username String, photo_width UInt32, photo_height UInt32, stats_views UInt64, stats_downloads UInt64')
WHERE photo_id != '' AND startsWith(_path, trimRight({path:String}, '/'))
SETTINGS format_custom_escaping_rule = 'CSV', format_custom_field_delimiter = '\t', input_format_csv_empty_as_default = 1;

TRUNCATE TABLE unsplash_conversions;
INSERT INTO unsplash_conversions
SELECT * FROM file(
    concat(vdx_literal(trimRight({path:String}, '/')), '/conversions.{tsv,csv}*'), CustomSeparatedWithNames,
    'photo_id String, keyword String, converted_at DateTime, conversion_country String')
WHERE startsWith(_path, trimRight({path:String}, '/'))
SETTINGS format_custom_escaping_rule = 'CSV', format_custom_field_delimiter = '\t', input_format_csv_empty_as_default = 1,
    date_time_input_format = 'best_effort';

INSERT INTO inputs (dataset, source, arrived)
SELECT {dataset:String}, source, sipHash64({dataset:String}, source) GLOBAL IN (
        SELECT id FROM current_images WHERE dataset = {dataset:String}
        UNION ALL
        SELECT id FROM current_rejects WHERE dataset = {dataset:String})
FROM unsplash_sources(pictures = {pictures:String}, suffix = {suffix:String});

-- Until all is in, merges write no vector index, so that it is built once.
ALTER TABLE images MODIFY SETTING materialize_skip_indexes_on_merge = 0;

-- A block of rows is what is read, embedded and stored at a time: it bounds memory, and what a stop can lose.
-- rows: SELECT count() FROM inputs FINAL WHERE dataset = {dataset:String}
-- done: SELECT sum(n) FROM (SELECT count() AS n FROM current_images WHERE dataset = {dataset:String} UNION ALL SELECT count() FROM current_rejects WHERE dataset = {dataset:String})
INSERT INTO inbox (dataset, source, bytes, caption, attributes)
SELECT {dataset:String}, source, vdx_read(source).bytes, caption, map('photo_id', photo_id)
FROM unsplash_sources(pictures = {pictures:String}, suffix = {suffix:String})
WHERE size > 0
UNION ALL
-- The encoder reads the others from their URL, or says why it cannot from their path.
SELECT {dataset:String}, source, '', caption, map('photo_id', photo_id)
FROM unsplash_sources(pictures = {pictures:String}, suffix = {suffix:String})
WHERE size = 0
SETTINGS max_threads = 4, max_block_size = 32, min_insert_block_size_rows = 1024, min_insert_block_size_bytes = 67108864,
    materialize_skip_indexes_on_insert = 0;

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
