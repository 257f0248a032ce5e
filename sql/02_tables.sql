-- Tables. A number before /* dimension */ is the embedding dimension of the installed model.

-- images: one row per embedded picture. The vector index serves every ORDER BY cosineDistance(vector, ...) LIMIT k.
-- Example: SELECT dataset, count() FROM images GROUP BY dataset
CREATE TABLE IF NOT EXISTS images
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,                                   -- path, URL or key of the picture
    dataset LowCardinality(String),
    model LowCardinality(String),                    -- the encoder's model; vectors of different models do not compare
    vector Array(Float32) CODEC(NONE),               -- unit length; floats like these do not compress
    caption String,
    attributes Map(LowCardinality(String), String),
    bytes UInt64,
    loaded_at DateTime DEFAULT now(),
    CONSTRAINT vector_length CHECK length(vector) = 512 /* dimension */,
    -- Cosine, bfloat16, M = 64, ef_construction = 256: as the published LAION index.
    INDEX vector_index vector TYPE vector_similarity('hnsw', 'cosineDistance', 512 /* dimension */, 'bf16', 64, 256)
)
ENGINE = MergeTree ORDER BY id;

-- rejects: one row per picture that could not be embedded, with the reason.
-- Example: SELECT error, count() FROM rejects GROUP BY error
CREATE TABLE IF NOT EXISTS rejects
(
    source String,
    dataset LowCardinality(String),
    error String,
    bytes UInt64,
    rejected_at DateTime DEFAULT now()
)
ENGINE = MergeTree ORDER BY (dataset, source);

-- ingest: insert pictures here with try_encode_image(...) AS encoded; good rows go to images, the others to rejects.
-- Example: INSERT INTO ingest (source, dataset, bytes, encoded)
--          SELECT _path, 'holiday', length(raw_blob), try_encode_image(raw_blob) FROM file('holiday/*.jpg', RawBLOB)
--          SETTINGS max_threads = 16
CREATE TABLE IF NOT EXISTS ingest
(
    source String,
    dataset LowCardinality(String),
    caption String,
    attributes Map(LowCardinality(String), String),
    bytes UInt64,
    encoded Tuple(vector Array(Float32), error String)
)
ENGINE = Null;

-- ingest_images: moves the good rows of ingest to images.
CREATE MATERIALIZED VIEW IF NOT EXISTS ingest_images TO images AS
SELECT source, dataset, encoder_info()['model'] AS model, encoded.vector AS vector, caption, attributes, bytes
FROM ingest WHERE encoded.error = '';

-- ingest_rejects: moves the other rows of ingest to rejects.
CREATE MATERIALIZED VIEW IF NOT EXISTS ingest_rejects TO rejects AS
SELECT source, dataset, encoded.error AS error, bytes
FROM ingest WHERE encoded.error != '';

-- labels: a person's judgements, append-only; the latest of a concept and image counts.
-- Example: INSERT INTO labels (concept, image_id, positive) VALUES ('house by the lake', 42, true)
CREATE TABLE IF NOT EXISTS labels
(
    concept String,
    image_id UInt64,
    positive Bool,
    labelled_at DateTime64(6) DEFAULT now64(6)
)
ENGINE = MergeTree ORDER BY (concept, image_id, labelled_at);

-- classifiers: one linear classifier per concept and round, append-only; round 0 is the text vector.
-- Example: SELECT concept, round, method, labels FROM classifiers ORDER BY concept, round
CREATE TABLE IF NOT EXISTS classifiers
(
    concept String,
    round UInt32,
    method LowCardinality(String),
    weight Array(Float32) CODEC(NONE),
    labels UInt32,                                   -- how many it was trained on
    created_at DateTime64(6) DEFAULT now64(6),
    CONSTRAINT weight_length CHECK length(weight) = 512 /* dimension */
)
ENGINE = MergeTree ORDER BY (concept, round);

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
