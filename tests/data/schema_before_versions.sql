-- SQL functions. ClickHouse keeps functions in one server-wide namespace, so all but the contract's own carry `vdx_`.

-- encoder_info(): the encoder's model, dimension, precision, counters and last error.
-- Example: SELECT encoder_info()['dimension']
CREATE OR REPLACE FUNCTION encoder_info AS () -> vdx_encoder_info('');

-- vdx_pictures(path): a folder as the glob of all picture files below it; anything else, a glob among them, as it is.
-- Example: SELECT vdx_pictures('/pictures')
CREATE OR REPLACE FUNCTION vdx_pictures AS (path) -> if(
    match(path, '[*?{]|\\.\\w+$'),
    path,
    concat(trimRight(path, '/'), '/**/*.{jpg,jpeg,png,webp,gif,bmp,tif,tiff,JPG,JPEG,PNG,WEBP,GIF,BMP,TIF,TIFF}'));

-- vdx_content_hash(source, bytes): the SHA-256 by which a picture is known: of its bytes, or of its source where that was
-- given alone.
-- Example: SELECT hex(vdx_content_hash('https://example.com/1.jpg', ''))
CREATE OR REPLACE FUNCTION vdx_content_hash AS (source, bytes) -> SHA256(if(empty(bytes), source, bytes));

-- vdx_normalize(vector): the vector scaled to length 1.
-- Example: SELECT vdx_normalize([3, 4])
CREATE OR REPLACE FUNCTION vdx_normalize AS (vector) -> vector / L2Norm(vector);

-- vdx_jitter(vector, seed): the vector with each number moved by up to 0.2 %, always the same for a seed; length 1, cosine
-- to the vector above 0.999999.
-- Example: SELECT vdx_jitter([0.6, 0.8], 42)
CREATE OR REPLACE FUNCTION vdx_jitter AS (vector, seed) -> vdx_normalize(arrayMap(
    (number, place) -> toFloat32(number * (1 + 0.004 * (sipHash64(seed, place) / 18446744073709551616 - 0.5))),
    vector, arrayEnumerate(vector)));

-- vdx_sigmoid(logit): the probability of a logit.
-- Example: SELECT vdx_sigmoid(0)
CREATE OR REPLACE FUNCTION vdx_sigmoid AS (logit) -> 1 / (1 + exp(-logit));

-- vdx_softmax(logits): probabilities that add up to 1.
-- Example: SELECT vdx_softmax([1, 1])
CREATE OR REPLACE FUNCTION vdx_softmax AS (logits) ->
    arrayMap(x -> exp(x - arrayMax(logits)), logits) / arraySum(arrayMap(x -> exp(x - arrayMax(logits)), logits));

-- vdx_prompt(template, label): the template with the label in place of {}.
-- Example: SELECT vdx_prompt('a photo of a {}.', 'cat')
CREATE OR REPLACE FUNCTION vdx_prompt AS (template, label) -> replaceAll(template, '{}', label);

-- vdx_sgd_step(weight, vectors, labels, learning_rate): one step of gradient descent on the mean binary cross-entropy of
-- a linear classifier without bias; the weight is L2-normalised before the step, not after it.
-- Example: SELECT vdx_sgd_step([1., 0.], [[1., 0.], [0., 1.]], [1, 0], 0.1)
CREATE OR REPLACE FUNCTION vdx_sgd_step AS (weight, vectors, labels, learning_rate) ->
    arrayMap(
        unit -> unit - learning_rate * arrayReduce('avgForEach', arrayMap(
            (vector, label) -> vector * (vdx_sigmoid(dotProduct(vector, unit)) - label), vectors, labels)),
        [vdx_normalize(weight)])[1];

-- Tables. A number before /* dimension */ is the embedding dimension of the installed model.

-- images: one row per embedded picture and model. The vector index serves every ORDER BY cosineDistance(vector, ...)
-- LIMIT k. A picture that is inserted again under the same source replaces its row.
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
    loaded_at DateTime64(3) DEFAULT now64(3),
    CONSTRAINT vector_length CHECK length(vector) = 512 /* dimension */,
    -- Cosine, bfloat16, M = 64, ef_construction = 256: as the published LAION index.
    INDEX vector_index vector TYPE vector_similarity('hnsw', 'cosineDistance', 512 /* dimension */, 'bf16', 64, 256)
)
ENGINE = ReplacingMergeTree(loaded_at)
-- A data set is searched, indexed and dropped on its own, and which models are there is known without reading a row.
PARTITION BY (dataset, model, weights_hash)
ORDER BY id;

-- rejects: one row per picture that could not be embedded, with the reason. To try one again, delete its row.
-- Example: SELECT error, count() FROM rejects GROUP BY error
CREATE TABLE IF NOT EXISTS rejects
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,
    dataset LowCardinality(String),
    content_hash FixedString(32),
    error String,
    size UInt64,
    rejected_at DateTime64(3) DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(rejected_at) ORDER BY id;

-- inputs: the pictures that a load found, noted before it embeds them.
-- Example: SELECT dataset, count() FROM inputs FINAL GROUP BY dataset
CREATE TABLE IF NOT EXISTS inputs
(
    id UInt64 DEFAULT sipHash64(dataset, source),
    source String,
    dataset LowCardinality(String),
    seen_at DateTime64(3) DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(seen_at) ORDER BY (dataset, id);

-- inbox: insert pictures here; each becomes a row of images or of rejects. `bytes` is the picture's content; where it is
-- empty, source is a path or URL that the encoder reads. What is already there, by source, content and model, is passed over.
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
    size UInt64
)
ENGINE = Null;

-- inbox_embed: embeds what is new in inbox, block by block. A picture that images holds under another source is not
-- embedded again: its vector is copied, with a jitter, since thousands of equal vectors make an index build 50 times slower.
CREATE MATERIALIZED VIEW IF NOT EXISTS inbox_embed TO embedded AS
WITH
    (SELECT encoder_info()) AS encoder,
    -- The zero byte says that a short text is a broken picture's content, not a path; no picture format minds it.
    multiIf(empty(bytes), source, length(bytes) <= 4096 AND isValidUTF8(bytes), bytes || '\0', bytes) AS picture,
    -- The inner if() keeps a known picture from the encoder: the outer one alone may compute both sides for every row.
    if(empty(twin), try_encode_image(if(empty(twin), picture, '')), (twin, '')) AS found,
    notEmpty(twin) OR (dataset, source) NOT IN (
        SELECT min((dataset, source)) FROM inbox GROUP BY vdx_content_hash(source, bytes)) AS is_copy
SELECT
    source,
    dataset,
    encoder['model'] AS model,
    encoder['weights_hash'] AS weights_hash,
    encoder['preprocessing'] AS preprocessing,
    content_hash,
    (if(is_copy, vdx_jitter(found.1, sipHash64(dataset, source)), found.1)::Array(Float32), found.2) AS encoded,
    caption,
    attributes,
    length(bytes) AS size
FROM (SELECT *, vdx_content_hash(source, bytes) AS content_hash FROM inbox) AS fresh
LEFT ANY JOIN
(
    SELECT content_hash, vector AS twin
    FROM images
    WHERE weights_hash = encoder['weights_hash'] AND content_hash IN (SELECT vdx_content_hash(source, bytes) FROM inbox)
) AS twins USING (content_hash)
WHERE (sipHash64(dataset, source), content_hash) NOT IN
(
    SELECT id, content_hash
    FROM images
    WHERE weights_hash = encoder['weights_hash'] AND id IN (SELECT sipHash64(dataset, source) FROM inbox)
    UNION ALL
    SELECT id, content_hash
    FROM rejects
    WHERE id IN (SELECT sipHash64(dataset, source) FROM inbox)
);

-- embedded_images: moves the good rows to images.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_images TO images AS
SELECT source, dataset, model, weights_hash, preprocessing, content_hash, encoded.vector AS vector, caption, attributes, size
FROM embedded
WHERE encoded.error = '';

-- embedded_rejects: moves the other rows to rejects.
CREATE MATERIALIZED VIEW IF NOT EXISTS embedded_rejects TO rejects AS
SELECT source, dataset, content_hash, encoded.error AS error, size
FROM embedded
WHERE encoded.error != '';

-- superseded: rows of images and rejects whose source was loaded again since, with another content. Loads delete them.
-- Example: SELECT stands_in, count() FROM superseded WHERE dataset = 'holiday' GROUP BY stands_in
CREATE OR REPLACE VIEW superseded AS
SELECT dataset, id, stands_in, at
FROM
(
    SELECT
        *,
        max(at) OVER (PARTITION BY dataset, id, weights_hash) AS last,
        maxIf(at, stands_in = 'images') OVER (PARTITION BY dataset, id) AS last_image,
        maxIf(at, stands_in = 'rejects') OVER (PARTITION BY dataset, id) AS last_reject
    FROM
    (
        SELECT dataset, id, weights_hash, 'images' AS stands_in, loaded_at AS at FROM images
        UNION ALL
        SELECT dataset, id, '', 'rejects', rejected_at FROM rejects
    )
)
WHERE at < last OR (stands_in = 'images' AND at < last_reject) OR (stands_in = 'rejects' AND at < last_image);

-- load_report(dataset): a data set's inputs, how many of them became images of the encoder's model and how many rejects,
-- and the rejects by reason. An error where inputs are not images + rejects.
-- Example: SELECT * FROM load_report(dataset = 'holiday')
CREATE OR REPLACE VIEW load_report AS
WITH (
    SELECT (count(), countIf(is_image), countIf(is_reject))
    FROM
    (
        SELECT
            id IN (
                SELECT id FROM images
                WHERE dataset = {dataset:String} AND weights_hash = (SELECT encoder_info()['weights_hash'])) AS is_image,
            id IN (SELECT id FROM rejects WHERE dataset = {dataset:String}) AS is_reject
        FROM inputs FINAL
        WHERE dataset = {dataset:String}
    )
) AS counted
SELECT what, pictures
FROM
(
    SELECT arrayJoin([(1, 'inputs', counted.1), (2, 'images', counted.2), (3, 'rejects', counted.3)]) AS line,
        line.1 AS place, line.2 AS what, line.3 AS pictures
    UNION ALL
    SELECT (0, '', 0), 4, concat('rejected: ', error), count() FROM rejects FINAL WHERE dataset = {dataset:String} GROUP BY error
)
WHERE NOT throwIf(counted.1 != counted.2 + counted.3, format(
    'of {} inputs {} are images and {} rejects, so some are missing: run the load again',
    toString(counted.1), toString(counted.2), toString(counted.3)))
ORDER BY place, pictures DESC, what;

-- portable: what travels of an image, for Parquet: INSERT INTO FUNCTION file(...), s3(...) or url(...).
-- Example: SELECT * FROM portable LIMIT 1
CREATE OR REPLACE VIEW portable AS
SELECT id, source, dataset, model::String AS model, weights_hash::String AS weights_hash, preprocessing::String AS preprocessing,
    content_hash, vector, caption, CAST(attributes, 'Map(String, String)') AS attributes, size
FROM images;

-- index_status: each data set's images, how many of them no vector index covers yet (they are searched one by one), and
-- the bytes of rows and index on disk.
-- Example: SELECT dataset, images, images_without_index FROM index_status
CREATE OR REPLACE VIEW index_status AS
SELECT
    dataset,
    model,
    weights_hash,
    sum(rows) AS images,
    sumIf(rows, secondary_indices_compressed_bytes = 0) AS images_without_index,
    sum(data_compressed_bytes) AS data_bytes,
    sum(secondary_indices_compressed_bytes) AS index_bytes
FROM system.parts
INNER JOIN (SELECT _partition_id, dataset, model, weights_hash FROM images GROUP BY ALL) AS known ON partition_id = _partition_id
WHERE active AND database = currentDatabase() AND table = 'images'
GROUP BY dataset, model, weights_hash;

-- comparable: one row where every image has the encoder's own model; otherwise an error that says what to do.
-- Example: SELECT encode_text('a red circle') FROM comparable
CREATE OR REPLACE VIEW comparable AS
WITH (
    SELECT (any(encoder), groupArrayIf(
        format('{} vectors of {} (weights {})', toString(held), if(model = '', 'a model that is not named', model),
            if(weights_hash = '', 'unknown', weights_hash)),
        weights_hash != encoder['weights_hash'] AND (weights_hash != '' OR model != encoder['model'])))
    FROM (SELECT model, weights_hash, count() AS held FROM images GROUP BY model, weights_hash) AS known
    CROSS JOIN (SELECT encoder_info() AS encoder) AS now
) AS found
SELECT 1 AS yes
WHERE NOT throwIf(notEmpty(found.2), format(
    'images holds {}, but the encoder runs {} (weights {}), and vectors of different models do not compare: install the other'
    || ' model with vdx install, or load the pictures again and DELETE FROM images WHERE weights_hash != ''{}''',
    arrayStringConcat(found.2, ', '), found.1['model'], found.1['weights_hash'], found.1['weights_hash']));

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

-- Searches. Each is a parameterised view: SELECT * FROM search_text(query = 'a cat', k = 9).
-- All answer (id, source, dataset, distance), nearest first, through the vector index up to k = 1000 (ClickHouse's
-- max_limit_for_vector_search_queries) and by an exact scan beyond. All refuse to compare vectors of different models.

-- search_text(query, k): the k images nearest to a text.
-- Example: SELECT * FROM search_text(query = 'a red circle', k = 9)
CREATE OR REPLACE VIEW search_text AS
SELECT id, source, dataset, cosineDistance(vector, (SELECT encode_text({query:String}) FROM comparable)) AS distance
FROM images
ORDER BY distance
LIMIT {k:UInt32};

-- search_image(image, k): the k images nearest to a picture, given as encode_image takes it.
-- Example: SELECT * FROM search_image(image = '/pictures/query.png', k = 9)
CREATE OR REPLACE VIEW search_image AS
SELECT id, source, dataset, cosineDistance(vector, (SELECT encode_image({image:String}) FROM comparable)) AS distance
FROM images
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector(vector, k): the k images nearest to a vector, for example a classifier's weight.
-- Example: SELECT * FROM search_vector(vector = (SELECT encode_text('a red circle')), k = 9)
CREATE OR REPLACE VIEW search_vector AS
SELECT id, source, dataset, cosineDistance(vector, (SELECT {vector:Array(Float32)} FROM comparable)) AS distance
FROM images
ORDER BY distance
LIMIT {k:UInt32};

-- search_id(image_id, k): the k images most similar to one of the table, itself left out.
-- Example: SELECT * FROM search_id(image_id = 42, k = 9)
CREATE OR REPLACE VIEW search_id AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset,
        cosineDistance(vector, (
            SELECT groupArray(1)(vector)[1] FROM images CROSS JOIN comparable WHERE id = {image_id:UInt64}
            HAVING NOT throwIf(count() = 0, 'search_id: no image has this image_id'))) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + 1
)
WHERE id != {image_id:UInt64}
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_excluding(query, exclude, k): as search_text, without the images whose ids are listed.
-- Example: SELECT * FROM search_text_excluding(query = 'a red circle', exclude = [42, 43], k = 9)
CREATE OR REPLACE VIEW search_text_excluding AS
SELECT id, source, dataset, distance
FROM
(
    -- The index finds neighbours before a filter sees them, so as many more are fetched as may be left out.
    SELECT id, source, dataset, cosineDistance(vector, (SELECT encode_text({query:String}) FROM comparable)) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + length({exclude:Array(UInt64)})
)
WHERE NOT has({exclude:Array(UInt64)}, id)
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_where(query, dataset, attribute, value, k): as search_text within one data set ('' for all) and, unless
-- attribute is '', with attributes[attribute] = value. Takes the k best of the index's 1000 nearest where as many pass
-- the filter; a filter that leaves fewer is searched exactly, so no match is missed.
-- Example: SELECT * FROM search_text_where(query = 'a red circle', dataset = '', attribute = 'background', value = 'white', k = 9)
CREATE OR REPLACE VIEW search_text_where AS
WITH
    near AS
    (
        SELECT id, source, dataset, distance
        FROM
        (
            SELECT id, source, dataset, attributes, cosineDistance(vector, (SELECT encode_text({query:String}) FROM comparable)) AS distance
            FROM images
            ORDER BY distance
            LIMIT 1000
        )
        WHERE ({dataset:String} = '' OR dataset = {dataset:String})
            AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
        ORDER BY distance
        LIMIT {k:UInt32}
    ),
    (SELECT count() FROM near) AS found
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset, distance FROM near WHERE found = {k:UInt32}
    UNION ALL
    -- The sum keeps this branch from the index, which would look at the filter too late.
    SELECT id, source, dataset, cosineDistance(vector, (SELECT encode_text({query:String}) FROM comparable)) + 0 AS distance
    FROM images
    WHERE found < {k:UInt32}
        AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
    ORDER BY distance
    LIMIT {k:UInt32}
)
ORDER BY distance
LIMIT {k:UInt32};

-- Few-shot refinement: start from a text vector, search, mark near misses, take a few training steps, search again.

-- current_labels: the judgement that counts for each concept and image.
-- Example: SELECT concept, countIf(positive), countIf(NOT positive) FROM current_labels GROUP BY concept
CREATE OR REPLACE VIEW current_labels AS
SELECT concept, image_id, argMax(positive, labelled_at) AS positive
FROM labels
GROUP BY concept, image_id;

-- current_classifiers: each concept's latest round.
-- Example: SELECT concept, round FROM current_classifiers
CREATE OR REPLACE VIEW current_classifiers AS
SELECT concept, latest.1 AS round, latest.2 AS weight
FROM (SELECT concept, argMax((round, weight), round) AS latest FROM classifiers GROUP BY concept);

-- current_weight(concept): the round and weight that a concept has reached; an error where it was never started.
-- Example: SELECT round, length(weight) FROM current_weight(concept = 'circles')
CREATE OR REPLACE VIEW current_weight AS
SELECT groupArray(round)[1] AS round, groupArray(weight)[1] AS weight
FROM current_classifiers
WHERE concept = {concept:String}
HAVING NOT throwIf(count() = 0, 'this concept has no classifier yet: INSERT INTO classifiers SELECT * FROM start_concept(concept = ..., prompt = ...)');

-- start_concept(concept, prompt): round 0 of a concept, the text vector of a prompt.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')
CREATE OR REPLACE VIEW start_concept AS
SELECT {concept:String} AS concept, 0::UInt32 AS round, 'text' AS method, encode_text({prompt:String}) AS weight,
    0::UInt32 AS labels, now64(6) AS created_at;

-- next_to_label(concept, k): the k unjudged images nearest to the current weight. Those that are wrong are the hard
-- negatives.
-- Example: SELECT * FROM next_to_label(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW next_to_label AS
SELECT id, source, dataset, distance
FROM
(
    SELECT id, source, dataset,
        cosineDistance(vector, (SELECT weight FROM current_weight(concept = {concept:String}))) AS distance
    FROM images
    ORDER BY distance
    LIMIT {k:UInt32} + (SELECT count() FROM current_labels WHERE concept = {concept:String})
)
WHERE id NOT IN (SELECT image_id FROM labels WHERE concept = {concept:String})
ORDER BY distance
LIMIT {k:UInt32};

-- fit(concept, steps, learning_rate): the next round of a concept, trained on its labels from its current weight.
-- The published recipe is steps = 5, learning_rate = 0.1.
-- Example: INSERT INTO classifiers SELECT * FROM fit(concept = 'circles', steps = 5, learning_rate = 0.1)
CREATE OR REPLACE VIEW fit AS
WITH
    (SELECT (round, weight) FROM current_weight(concept = {concept:String})) AS current,
    (
        SELECT (groupArray(vector), groupArray(toFloat64(positive)))
        FROM images
        INNER JOIN current_labels ON image_id = id
        WHERE concept = {concept:String}
        HAVING NOT throwIf(count() = 0, 'this concept has no labels yet: INSERT INTO labels (concept, image_id, positive) VALUES (...)')
    ) AS samples
SELECT
    {concept:String} AS concept,
    toUInt32(current.1 + 1) AS round,
    'sgd' AS method,
    arrayFold(
        (weight, step) -> vdx_sgd_step(weight, samples.1, samples.2, {learning_rate:Float64}),
        range({steps:UInt32}),
        CAST(current.2, 'Array(Float64)'))::Array(Float32) AS weight,
    toUInt32(length(samples.2)) AS labels,
    now64(6) AS created_at;

-- scores(concept): every image's probability under the concept's current classifier.
-- Example: SELECT id, probability FROM scores(concept = 'circles') ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores AS
WITH (SELECT vdx_normalize(weight) FROM current_weight(concept = {concept:String})) AS unit
SELECT id, source, dataset, vdx_sigmoid(dotProduct(vector, unit)) AS probability
FROM images;
