-- Tables. A number before /* dimension */ is the embedding dimension of the installed model.

-- images: one row per embedded picture. The vector index serves every ORDER BY cosineDistance(vector, ...) LIMIT k. A picture
-- that is inserted again under the same source replaces its row: the views leave the old one out from then on, see
-- superseded_images; a merge removes it. DELETE FROM images leaves rows in the index until their part is written anew: the views
-- look past them, a statement of your own finds fewer than k until
-- ALTER TABLE images APPLY DELETED MASK SETTINGS mutations_sync = 2.
-- Example: SELECT dataset, count() FROM images GROUP BY dataset
CREATE TABLE IF NOT EXISTS images
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,                                   -- path, URL or key of the picture
    dataset LowCardinality(String),
    model LowCardinality(String),                    -- what made the vector; vectors of different weights do not compare
    weights_hash LowCardinality(String),
    preprocessing LowCardinality(String),
    content_hash FixedString(32),                    -- by vdx_content_hash
    vector Array(Float32) CODEC(NONE),               -- unit length; floats like these do not compress
    caption String,
    attributes Map(LowCardinality(String), String),
    size UInt64,                                     -- of the picture's bytes, where they were given
    loaded_at DateTime64(3) DEFAULT nowInBlock64(3), -- of two rows of an id the later one counts
    CONSTRAINT vector_length CHECK length(vector) = 512 /* dimension */,
    -- Others would be scored wrong: vdx_normalize(vector) scales one.
    CONSTRAINT vector_norm CHECK abs(L2Norm(vector) - 1) < 0.01,
    -- Cosine; quantization, M and ef_construction as `vdx install --index` says.
    INDEX vector_index vector TYPE vector_similarity('hnsw', 'cosineDistance', 512 /* dimension */, 'bf16', 32, 128 /* index */)
)
ENGINE = ReplacingMergeTree(loaded_at)
-- A data set is searched, indexed and dropped on its own, and which models are there is known without reading a row.
PARTITION BY (dataset, model, weights_hash)
ORDER BY id
-- 128 vectors of 512: a judged or random image is read with its granule, in a quarter of the time that 10 MiB take.
SETTINGS index_granularity_bytes = 262144;

-- rejects: one row per picture that could not be embedded, with the reason; current_rejects has those that still hold. To try one
-- again, delete its row.
-- Example: SELECT error, count() FROM rejects GROUP BY error
CREATE TABLE IF NOT EXISTS rejects
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,
    dataset LowCardinality(String),
    content_hash FixedString(32),
    error String,
    size UInt64,
    rejected_at DateTime64(3) DEFAULT nowInBlock64(3)
)
ENGINE = ReplacingMergeTree(rejected_at) ORDER BY id;

-- inputs: the pictures that a load found, noted before it embeds them, and those that came through inbox.
-- Example: SELECT dataset, count() FROM inputs FINAL GROUP BY dataset
CREATE TABLE IF NOT EXISTS inputs
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,
    dataset LowCardinality(String),
    seen_at DateTime64(3) DEFAULT now64(3),
    arrived Bool                                     -- it became an image or a reject; if it is neither, somebody deleted it
)
ENGINE = ReplacingMergeTree(seen_at) ORDER BY (dataset, id);
ALTER TABLE inputs ADD COLUMN IF NOT EXISTS arrived Bool AFTER seen_at; -- of version 2, before the view that fills it

-- superseded_images: rows of images that a newer row, or a newer reject, of the same id replaced, noted as that one comes in. The
-- views leave them out; vdx load clears both where they are more than a tenth of a partition.
-- Example: SELECT count() FROM superseded_images
CREATE TABLE IF NOT EXISTS superseded_images (id UInt64, loaded_at DateTime64(3))
ENGINE = ReplacingMergeTree ORDER BY (id, loaded_at);

-- image_rows: id and time of every row of images. A view that is filled by INSERTs into images reads the table through it: there
-- the table's own name is the block that comes in.
-- Example: SELECT id, count() FROM image_rows GROUP BY id HAVING count() > 1
CREATE OR REPLACE VIEW image_rows AS
SELECT id, loaded_at FROM images;

-- images_supersede: of two rows of an id the older one is superseded. An INSERT of rows that are all new can say so by
-- optimize_on_insert = 0: then nothing is looked up.
CREATE MATERIALIZED VIEW IF NOT EXISTS images_supersede TO superseded_images AS
SELECT fresh.id AS id, least(fresh.loaded_at, held.loaded_at) AS loaded_at
FROM images AS fresh
INNER JOIN
(
    SELECT id, loaded_at
    FROM image_rows
    WHERE id IN (SELECT id FROM images WHERE getSetting('optimize_on_insert'))
) AS held USING (id)
WHERE fresh.loaded_at != held.loaded_at;

-- rejects_supersede: a picture whose new content cannot be embedded leaves no old row in its place.
CREATE MATERIALIZED VIEW IF NOT EXISTS rejects_supersede TO superseded_images AS
SELECT held.id AS id, held.loaded_at AS loaded_at
FROM rejects AS fresh
INNER JOIN (SELECT id, loaded_at FROM images WHERE id IN (SELECT id FROM rejects)) AS held USING (id)
WHERE held.loaded_at <= fresh.rejected_at;

-- superseded_rejects: rejects whose picture was embedded since, noted as it comes in.
-- Example: SELECT count() FROM superseded_rejects
CREATE TABLE IF NOT EXISTS superseded_rejects (id UInt64, rejected_at DateTime64(3))
ENGINE = ReplacingMergeTree ORDER BY (id, rejected_at);

-- images_supersede_rejects: fills it.
CREATE MATERIALIZED VIEW IF NOT EXISTS images_supersede_rejects TO superseded_rejects AS
SELECT held.id AS id, held.rejected_at AS rejected_at
FROM images AS fresh
INNER JOIN
(
    SELECT id, rejected_at FROM rejects WHERE id IN (SELECT id FROM images WHERE getSetting('optimize_on_insert'))
) AS held USING (id)
WHERE held.rejected_at < fresh.loaded_at;

-- current_images: the images that count, one row an id, the newest.
-- Example: SELECT source, caption FROM current_images WHERE dataset = 'holiday'
CREATE OR REPLACE VIEW current_images AS
SELECT * FROM images WHERE (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images);

-- current_rejects: the rejects that still hold: none of them was embedded since.
-- Example: SELECT source, error FROM current_rejects WHERE dataset = 'holiday'
CREATE OR REPLACE VIEW current_rejects AS
SELECT * FROM rejects FINAL
WHERE (id, rejected_at) GLOBAL NOT IN (SELECT id, rejected_at FROM superseded_rejects);

-- superseded: the rows that superseded_images should hold, by looking at all images. Only rows of one id that two INSERTs bring at
-- the same moment can miss each other on their way in.
-- Example: SELECT count() FROM superseded WHERE dataset = 'holiday'
CREATE OR REPLACE VIEW superseded AS
SELECT dataset, id, loaded_at
FROM images
GLOBAL INNER JOIN
(
    SELECT id, max(at) AS newest
    FROM (SELECT id, loaded_at AS at FROM images UNION ALL SELECT id, rejected_at + INTERVAL 1 MILLISECOND FROM rejects)
    GROUP BY id
    HAVING count() > 1
) AS known USING (id)
WHERE loaded_at < newest;

-- hidden_rows: how many rows of images the views leave out: superseded ones, and deleted ones that are still in their parts. Searches
-- ask the index for as many more. While nothing is hidden both counts come from what ClickHouse knows of the parts.
-- Example: SELECT hidden FROM hidden_rows
CREATE OR REPLACE VIEW hidden_rows AS
SELECT toUInt64(greatest(0,
        assumeNotNull((SELECT count() FROM images SETTINGS apply_deleted_mask = 0))
        - assumeNotNull((SELECT count() FROM images SETTINGS apply_deleted_mask = 1))))
    + assumeNotNull((SELECT count() FROM superseded_images SETTINGS apply_deleted_mask = 1)) AS hidden;

-- inbox: insert pictures here; each becomes a row of images or of rejects. `bytes` is the picture's content; where it is
-- empty, source is a path or URL that the encoder reads. What is already there, by source, content and model, is passed over.
-- A picture without a source goes by its SHA-256. Of pictures with one source and different content in one INSERT one is taken;
-- the others are rejects under names of their own.
-- Example: INSERT INTO inbox (dataset, source, bytes) SELECT 'holiday', _path, raw_blob FROM file('holiday/*.jpg', RawBLOB)
CREATE TABLE IF NOT EXISTS inbox
(
    source String,
    dataset LowCardinality(String),
    bytes String,
    caption String,
    attributes Map(LowCardinality(String), String)
)
ENGINE = Null;

-- embedded: what inbox became, on its way to images and rejects.
CREATE TABLE IF NOT EXISTS embedded
(
    source String,
    dataset LowCardinality(String),
    model LowCardinality(String),
    weights_hash LowCardinality(String),
    preprocessing LowCardinality(String),
    content_hash FixedString(32),
    encoded Tuple(vector Array(Float32), error String),
    caption String,
    attributes Map(LowCardinality(String), String),
    size UInt64,
    at DateTime64(3) DEFAULT nowInBlock64(3)         -- one time for all that becomes of a row
)
ENGINE = Null;
ALTER TABLE embedded ADD COLUMN IF NOT EXISTS at DateTime64(3) DEFAULT nowInBlock64(3);

-- inbox_embed: embeds what is new in inbox, block by block. A picture that images holds under another source is not
-- embedded again: its vector is copied, with a jitter, since thousands of equal vectors make an index build 50 times slower.
CREATE MATERIALIZED VIEW IF NOT EXISTS inbox_embed TO embedded AS
WITH
    (SELECT encoder_info()) AS encoder,
    vdx_picture(given, bytes) AS picture,
    multiIf(
        clashes, 'another picture of the same INSERT has this source: give each a source of its own',
        empty(given) AND empty(bytes), 'neither bytes nor a source were given',
        '') AS mistake,
    empty(twin) AND empty(mistake) AS unknown,
    -- The inner if() keeps a known picture from the encoder: the outer one alone may compute both sides for every row.
    multiIf(notEmpty(mistake), ([], mistake), unknown, try_encode_image(if(unknown, picture, '\0')), (twin, '')) AS found,
    notEmpty(twin) OR (dataset, given) NOT IN (
        SELECT min((dataset, vdx_source(source, bytes))) FROM inbox GROUP BY vdx_content_hash(source, bytes)) AS is_copy
SELECT
    if(clashes, other_name, given) AS source,
    dataset,
    encoder['model'] AS model,
    encoder['weights_hash'] AS weights_hash,
    encoder['preprocessing'] AS preprocessing,
    content_hash,
    (if(is_copy, vdx_jitter(found.1, sipHash64(dataset, given)), found.1)::Array(Float32), found.2) AS encoded,
    caption,
    attributes,
    length(bytes) AS size
FROM
(
    SELECT dataset, vdx_source(source, bytes) AS given, bytes, caption, attributes, vdx_content_hash(source, bytes) AS content_hash,
        concat(given, '#', lower(hex(substring(content_hash, 1, 8)))) AS other_name,
        -- Of one source's pictures in a block the one of least hash is taken.
        (dataset, given, content_hash) NOT IN (
            SELECT dataset, vdx_source(source, bytes), min(vdx_content_hash(source, bytes)) FROM inbox GROUP BY ALL) AS clashes
    FROM inbox
) AS fresh
LEFT ANY JOIN
(
    SELECT content_hash, vector AS twin
    FROM images
    WHERE weights_hash = encoder['weights_hash'] AND content_hash IN (SELECT vdx_content_hash(source, bytes) FROM inbox)
) AS twins USING (content_hash)
WHERE (sipHash64(dataset, source), content_hash) NOT IN
(
    WITH ids AS
    (
        SELECT arrayJoin([sipHash64(dataset, given), sipHash64(dataset, concat(given, '#', lower(hex(substring(content_hash, 1, 8)))))]) AS id
        FROM (SELECT dataset, vdx_source(source, bytes) AS given, vdx_content_hash(source, bytes) AS content_hash FROM inbox)
    )
    SELECT id, content_hash
    FROM current_images
    WHERE weights_hash = encoder['weights_hash'] AND id IN (SELECT id FROM ids)
    UNION ALL
    SELECT id, content_hash
    FROM current_rejects
    WHERE id IN (SELECT id FROM ids)
);

-- embedded_inputs: notes in inputs what goes to images and rejects.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_inputs TO inputs AS
SELECT source, dataset, true AS arrived
FROM embedded;

-- arrivals: what was embedded in the last days and by which INSERT.
-- Example: SELECT insert_id, count() FROM arrivals GROUP BY insert_id
CREATE TABLE IF NOT EXISTS arrivals
(
    id UInt64,
    source String,
    dataset LowCardinality(String),
    content_hash FixedString(32),
    insert_id LowCardinality(String),
    at DateTime64(3)
)
ENGINE = MergeTree ORDER BY id PARTITION BY toDate(at) TTL toDateTime(at) + INTERVAL 2 DAY SETTINGS ttl_only_drop_parts = 1;

-- embedded_arrivals: notes in arrivals what goes to images and rejects.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_arrivals TO arrivals AS
SELECT sipHash64(dataset, source) AS id, source, dataset, content_hash, initialQueryID() AS insert_id, at
FROM embedded;

-- arrival_rows: arrivals as image_rows is images.
-- Example: SELECT count() FROM arrival_rows
CREATE OR REPLACE VIEW arrival_rows AS
SELECT id, content_hash, insert_id, at FROM arrivals;

-- arrivals_clash: where the blocks of one INSERT bring different pictures of one source, the last one is taken, and each earlier one
-- is a reject under a name of its own.
CREATE MATERIALIZED VIEW IF NOT EXISTS arrivals_clash TO rejects AS
SELECT
    concat(fresh.source, '#', lower(hex(substring(if(fresh.at > held.at, held.content_hash, fresh.content_hash), 1, 8)))) AS source,
    fresh.dataset AS dataset,
    if(fresh.at > held.at, held.content_hash, fresh.content_hash) AS content_hash,
    'another picture of the same INSERT has this source: give each a source of its own' AS error
FROM arrivals AS fresh
INNER JOIN
(
    SELECT id, content_hash, at FROM arrival_rows WHERE id IN (SELECT id FROM arrivals) AND insert_id = initialQueryID()
) AS held ON held.id = fresh.id
WHERE held.content_hash != fresh.content_hash;

-- embedded_images: moves the good rows to images.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_images TO images AS
SELECT source, dataset, model, weights_hash, preprocessing, content_hash, encoded.vector AS vector, caption, attributes, size,
    at AS loaded_at
FROM embedded
WHERE encoded.error = '';

-- embedded_rejects: moves the other rows to rejects.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_rejects TO rejects AS
SELECT source, dataset, content_hash, encoded.error AS error, size, at AS rejected_at
FROM embedded
WHERE encoded.error != '';

-- load_report(dataset): a data set's inputs, how many of them became images of the encoder's model and how many rejects,
-- and the rejects by reason. An error where inputs are not images + rejects; what was deleted since counts nowhere.
-- Example: SELECT * FROM load_report(dataset = 'holiday')
CREATE OR REPLACE VIEW load_report AS
WITH (
    SELECT (count(), countIf(is_image), countIf(is_reject))
    FROM
    (
        SELECT
            id GLOBAL IN (
                SELECT id FROM current_images
                WHERE dataset = {dataset:String} AND weights_hash = (SELECT encoder_info()['weights_hash'])) AS is_image,
            id GLOBAL IN (SELECT id FROM current_rejects WHERE dataset = {dataset:String}) AS is_reject
        FROM
        (
            SELECT id FROM inputs FINAL
            WHERE dataset = {dataset:String} AND (NOT arrived OR id GLOBAL IN (SELECT id FROM current_images WHERE dataset = {dataset:String}))
            UNION DISTINCT
            SELECT id FROM current_rejects WHERE dataset = {dataset:String}
        )
    )
) AS counted
SELECT what, pictures
FROM
(
    SELECT arrayJoin([(1, 'inputs', counted.1), (2, 'images', counted.2), (3, 'rejects', counted.3)]) AS line,
        line.1 AS place, line.2 AS what, line.3 AS pictures
    UNION ALL
    SELECT (0, '', 0), 4, concat('rejected: ', error), count() FROM current_rejects WHERE dataset = {dataset:String} GROUP BY error
)
WHERE NOT throwIf(counted.1 != counted.2 + counted.3, format(
    'of {} inputs {} are images and {} rejects, so some are missing: run the load again',
    toString(counted.1), toString(counted.2), toString(counted.3)))
ORDER BY place, pictures DESC, what;

-- picture(source): the bytes of a picture as `images` names it, where encode_image may read it. Not replaced by an upgrade: where
-- pictures live elsewhere, in a bucket or a table, replace it by a view of your own.
-- Example: SELECT length(bytes) FROM picture(source = '/pictures/query.png')
CREATE VIEW IF NOT EXISTS picture AS
SELECT found.1 AS bytes
FROM (SELECT vdx_read({source:String}) AS found)
WHERE NOT throwIf(found.2 != '', 'this picture cannot be read: SELECT vdx_read(''its source'').error says why');

-- folder_files(path): the files below a folder (or a file, or those that a glob matches), which of them are pictures, and what cannot
-- be looked at.
-- Example: SELECT source, size FROM folder_files(path = '/pictures') WHERE is_picture
CREATE OR REPLACE VIEW folder_files AS
SELECT found.1 AS source, found.2 AS size, found.3 AS error, vdx_is_picture(source) AS is_picture
FROM (SELECT arrayJoin(vdx_files({path:String})) AS found);

-- passed_over(path): the files below a folder that are no inputs of a load, in one line, and their number; no row where there are none.
-- Example: SELECT * FROM passed_over(path = '/pictures')
CREATE OR REPLACE VIEW passed_over AS
SELECT
    format('passed over: {} files of other kinds: {}', toString(sum(files)),
        arrayStringConcat(arrayMap(one -> concat(one.2, ' ', toString(one.1)), arrayReverseSort(groupArray((files, kind)))), ', ')) AS what,
    sum(files) AS pictures
FROM
(
    SELECT multiIf(error != '', error, source LIKE '%.%', lower(concat('.', extract(source, '\\.([^./]*)$'))), 'no ending') AS kind,
        count() AS files
    FROM folder_files(path = {path:String})
    WHERE NOT is_picture
    GROUP BY kind
)
HAVING pictures > 0;

-- portable: what travels of an image, for Parquet: INSERT INTO FUNCTION file(...), s3(...) or url(...).
-- Example: SELECT * FROM portable LIMIT 1
CREATE OR REPLACE VIEW portable AS
SELECT id, source, dataset, model::String AS model, weights_hash::String AS weights_hash, preprocessing::String AS preprocessing,
    content_hash, vector::Array(Float32) AS vector, caption, CAST(attributes, 'Map(String, String)') AS attributes, size
FROM current_images;

-- index_status: each data set's images, how many of them no vector index covers yet (they are searched one by one), how many rows
-- are hidden (superseded, or deleted and still in their part), and the bytes of rows and index on disk.
-- Example: SELECT dataset, images, images_without_index FROM index_status
CREATE OR REPLACE VIEW index_status AS
SELECT
    dataset,
    model,
    weights_hash,
    sum(current) AS images,
    sumIf(current, secondary_indices_compressed_bytes = 0) AS images_without_index,
    sum(stored) - images AS hidden,
    sum(data_compressed_bytes) AS data_bytes,
    sum(secondary_indices_compressed_bytes) AS index_bytes
FROM
(
    SELECT _part AS name, dataset, model, weights_hash, count() AS stored,
        countIf(_row_exists AND (id, loaded_at) NOT IN (SELECT id, loaded_at FROM superseded_images)) AS current
    FROM images
    GROUP BY ALL
    SETTINGS apply_deleted_mask = 0
) AS known
INNER JOIN system.parts ON parts.name = known.name AND active AND database = currentDatabase() AND table = 'images'
GROUP BY dataset, model, weights_hash;

-- held_models: the models that the current images were embedded by, and how many by each.
-- Example: SELECT model, images FROM held_models
CREATE OR REPLACE VIEW held_models AS
SELECT model, weights_hash, sum(rows) AS images
FROM
(
    SELECT model, weights_hash, toInt64(count()) AS rows FROM images GROUP BY ALL
    UNION ALL
    SELECT model, weights_hash, -toInt64(count()) FROM images
    WHERE (id, loaded_at) GLOBAL IN (SELECT id, loaded_at FROM superseded_images)
    GROUP BY ALL
)
GROUP BY model, weights_hash
HAVING images > 0;

-- encoder_weights: the model and the weights of the encoder, as images notes them.
-- Example: SELECT model, weights_hash FROM encoder_weights
CREATE OR REPLACE VIEW encoder_weights AS
SELECT info['model'] AS model, info['weights_hash'] AS weights_hash
FROM (SELECT encoder_info() AS info);

-- comparable: one row where every image has the encoder's own model; otherwise an error that says what to do. For what compares all
-- images with the encoder's vectors; the searches look at their hits alone (vdx_check_weights).
-- Example: SELECT encode_text('a red circle') FROM comparable
CREATE OR REPLACE VIEW comparable AS
WITH
    (SELECT (model, weights_hash) FROM encoder_weights) AS encoder,
    (
        SELECT groupArray(format('{} vectors of {} (weights {})', toString(images), if(model = '', 'a model that is not named', model),
            if(weights_hash = '', 'unknown', weights_hash)))
        FROM held_models
        WHERE vdx_is_other_model(model, weights_hash, encoder)
        SETTINGS apply_deleted_mask = 1
    ) AS others
SELECT 1 AS yes
WHERE NOT throwIf(notEmpty(others), vdx_refusal(arrayStringConcat(others, ', '), encoder));

-- thumbnails: small JPEGs, kept so that a screen of 100 is one SELECT. Filled when asked: by vdx load --thumbnails, by the explorer for
-- what it shows for the first time, by the example. A picture with other content has another content_hash, and so a new thumbnail;
-- unused_thumbnails has the old one.
-- Example: INSERT INTO thumbnails SELECT * FROM missing_thumbnails(ids = [42], side = 256)
CREATE TABLE IF NOT EXISTS thumbnails
(
    content_hash FixedString(32),                    -- by vdx_picture_key
    side UInt16,                                     -- pixels, as thumbnail() was asked for; the picture may be smaller
    bytes String CODEC(NONE)                         -- JPEG
)
ENGINE = ReplacingMergeTree ORDER BY (content_hash, side)
-- Rows are read one here and one there, each with its granule: 6 thumbnails of 10 kB.
SETTINGS index_granularity_bytes = 65536, min_compress_block_size = 16384;

-- picture_facts: what a picture's file says of it and what it looks like in a few numbers, by vdx_picture_facts; image_facts has them
-- by image. Filled when asked: by vdx load --facts, by the example. A picture with other content has another content_hash.
-- Example: INSERT INTO picture_facts SELECT * FROM missing_picture_facts(dataset = 'holiday')
CREATE TABLE IF NOT EXISTS picture_facts
(
    content_hash FixedString(32),                    -- by vdx_picture_key
    width UInt32,                                    -- pixels of the whole picture, upright
    height UInt32,
    format LowCardinality(String),                   -- JPEG, PNG ...: as Pillow calls it
    orientation UInt8,                               -- of EXIF; 1 is upright
    brightness Float32,                              -- of its pixels the mean, 0 to 1
    darkest Float32,                                 -- the 5th percentile
    brightest Float32,                               -- the 99th
    sharpness Float32,                               -- standard deviation of the Laplacian, levels of 255
    entropy Float32,                                 -- of the grey levels, bits
    colourfulness Float32                            -- 0 grey, 15 slightly, 109 extremely colourful
)
ENGINE = ReplacingMergeTree ORDER BY content_hash;

-- regions: parts of pictures, so that small things are found: per image the whole and overlapping squares at finer levels, see
-- encode_regions. `vector` is not the part's own: by vdx_region_vector it holds the whole picture's share too, so that its cosine distance
-- to vdx_region_target(a text's vector) is 1 less the mean of the cosines of the whole and of the part. Filled when asked: by
-- vdx load --regions, by the example. A row goes with the row of images that has its id and loaded_at.
-- Example: INSERT INTO regions SELECT * FROM missing_regions(dataset = 'holiday', levels = 2)
CREATE TABLE IF NOT EXISTS regions
(
    image_id UInt64,
    loaded_at DateTime64(3),                         -- of the row of images
    dataset LowCardinality(String),
    model LowCardinality(String),
    weights_hash LowCardinality(String),
    place UInt16,                                    -- 0 is the whole, then the squares, level by level and row by row
    levels UInt8,                                    -- that were asked for
    box Tuple(x Float32, y Float32, width Float32, height Float32), -- shares of the upright picture from its top left corner
    vector Array(Float32) CODEC(NONE),
    CONSTRAINT vector_length CHECK length(vector) = 513 /* dimension + 1 */,
    INDEX vector_index vector TYPE vector_similarity('hnsw', 'cosineDistance', 513 /* dimension + 1 */, 'bf16', 32, 128 /* index */)
)
ENGINE = ReplacingMergeTree(loaded_at)
PARTITION BY (dataset, model, weights_hash)
ORDER BY (image_id, place)
SETTINGS index_granularity_bytes = 262144;

-- labels: a person's judgements, append-only; the latest of a concept and image counts.
-- Example: INSERT INTO labels (concept, image_id, positive) VALUES ('house by the lake', 42, true)
CREATE TABLE IF NOT EXISTS labels
(
    concept String,
    image_id UInt64,
    positive Bool,
    withdrawn Bool,                                  -- true: the image counts as not judged; see undo_label
    labelled_at DateTime64(6) DEFAULT now64(6),
    -- Where it shows, as regions has its boxes, for rounds on regions: INSERT INTO labels (concept, image_id, positive, box). It is kept as
    -- marked, which SELECT * leaves out; zeros: not said.
    box Tuple(x Float32, y Float32, width Float32, height Float32) EPHEMERAL (0, 0, 0, 0),
    marked Tuple(x Float32, y Float32, width Float32, height Float32) MATERIALIZED box,
    CONSTRAINT box_lies_in_the_picture CHECK marked = (0, 0, 0, 0)
        OR (tupleElement(marked, 1) >= 0 AND tupleElement(marked, 2) >= 0 AND tupleElement(marked, 3) > 0 AND tupleElement(marked, 4) > 0
            AND tupleElement(marked, 1) + tupleElement(marked, 3) < 1.001 AND tupleElement(marked, 2) + tupleElement(marked, 4) < 1.001)
)
ENGINE = MergeTree ORDER BY (concept, image_id, labelled_at);

-- classifiers: one linear classifier per concept and round, append-only; round 0 is the text vector. Its probability of a
-- picture is vdx_probability(vector, vdx_normalize(weight), logit_scale, bias).
-- Example: SELECT concept, round, method, labels FROM classifiers ORDER BY concept, round
CREATE TABLE IF NOT EXISTS classifiers
(
    concept String,
    round UInt32,
    method LowCardinality(String),                   -- text, vector, sgd (by fit), anchored or text kept (both by refine), revert
    weight Array(Float32) CODEC(NONE),
    logit_scale Float64 DEFAULT 1,
    bias Float64,
    uncertainty Tuple(scale Float64, covariance Float64, bias Float64), -- of logit_scale and bias: their covariance matrix
    labels UInt32,                                   -- how many it was trained on
    freedom Nullable(Float64),                       -- prior variance of the weight around the text vector; 0: not moved
    average_precision Nullable(Float32),             -- cross-validated, over the labels and the random images
    text_average_precision Nullable(Float32),        -- the text vector's over the same
    model LowCardinality(String),                    -- whose vectors it scores, both '' where that is not known
    weights_hash LowCardinality(String),
    created_at DateTime64(6) DEFAULT now64(6),
    CONSTRAINT weight_length CHECK length(weight) = 512 /* dimension */
)
ENGINE = MergeTree ORDER BY (concept, round, created_at);

-- prompt_templates: named sets of sentences around a label, {} in its place; zero_shot averages over a set.
-- Example: INSERT INTO prompt_templates VALUES ('aerial', 'a satellite picture of {}.')
CREATE TABLE IF NOT EXISTS prompt_templates (template_set LowCardinality(String), template String)
ENGINE = MergeTree ORDER BY (template_set, template);

-- The set that classify() uses: of CLIP's own 80 ImageNet templates those that claim nothing else of the picture.
INSERT INTO prompt_templates
SELECT 'default', arrayJoin([
    'a photo of a {}.',
    'a photo of the {}.',
    'a good photo of a {}.',
    'a good photo of the {}.',
    'itap of a {}.'
]) AS template
WHERE ('default', template) NOT IN (SELECT template_set, template FROM prompt_templates);
