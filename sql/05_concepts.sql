-- A concept's beginnings: judgements, rounds, and the text, vector or image that it starts from.

-- current_labels: the judgement that counts for each concept and image, with its box (zeros where none was given); what was withdrawn is
-- left out.
-- Example: SELECT concept, countIf(positive), countIf(NOT positive) FROM current_labels GROUP BY concept
CREATE OR REPLACE VIEW current_labels AS
SELECT concept, image_id, latest.1 AS positive, latest.3 AS box
FROM (SELECT concept, image_id, argMax((positive, withdrawn, marked), labelled_at) AS latest FROM labels GROUP BY concept, image_id)
WHERE NOT latest.2;

-- current_classifiers: each concept's latest round.
-- Example: SELECT concept, round FROM current_classifiers
CREATE OR REPLACE VIEW current_classifiers AS
SELECT * FROM classifiers ORDER BY concept, round DESC, created_at DESC LIMIT 1 BY concept;

-- current_weight(concept): the latest round of a concept; an error where it was never started, or where images holds vectors
-- of another model than the concept's.
-- Example: SELECT round, length(weight) FROM current_weight(concept = 'circles')
CREATE OR REPLACE VIEW current_weight AS
SELECT latest.round AS round, latest.weight AS weight, latest.logit_scale AS logit_scale, latest.bias AS bias, latest.uncertainty AS uncertainty
FROM
(
    SELECT count() AS rounds, argMax((round, weight, logit_scale, bias, uncertainty, weights_hash, model), (round, created_at))::Tuple(
        round UInt32, weight Array(Float32), logit_scale Float64, bias Float64,
        uncertainty Tuple(scale Float64, covariance Float64, bias Float64), weights_hash String, model String) AS latest
    FROM classifiers
    WHERE concept = {concept:String}
) AS trained
CROSS JOIN (SELECT groupArray((weights_hash::String, model::String)) AS held FROM held_models) AS known
WHERE NOT throwIf(rounds = 0, 'this concept has no classifier yet: INSERT INTO classifiers SELECT * FROM start_concept(concept = ..., prompt = ...)')
    AND NOT throwIf(
        latest.weights_hash != '' AND arrayExists(other -> vdx_is_other_model(other.2, other.1, (latest.model, latest.weights_hash)), held),
        'images holds vectors of another model than this concept was trained on, and they do not compare (SELECT DISTINCT model,'
        || ' weights_hash FROM images): start the concept again under another name, or delete the other images');

-- random_images(seed, n): n images at random, always the same for a seed and table: those whose ids, hashes themselves,
-- come next after the seed's hash. Reads no more than n rows a part.
-- Example: SELECT id FROM random_images(seed = 'any text', n = 5)
CREATE OR REPLACE VIEW random_images AS
SELECT id
FROM
(
    SELECT id, 0 AS turn FROM current_images WHERE id >= sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
    UNION ALL
    SELECT id, 1 AS turn FROM current_images WHERE id < sipHash64({seed:String}) ORDER BY id LIMIT {n:UInt32}
)
ORDER BY turn, id
LIMIT {n:UInt32};

-- start_near(concept, method, vector, image_id, logit_scale): what the next three share: round 0 from the vector of the image
-- or, where image_id is 0, the vector given.
-- Example: SELECT logit_scale, bias FROM start_near(concept = 'circles', method = 'text', vector = encode_text('a circle'), image_id = 0, logit_scale = 100)
CREATE OR REPLACE VIEW start_near AS
WITH
    (
        SELECT vdx_directed(if(
            {image_id:UInt64} = 0,
            {vector:Array(Float32)},
            (
                SELECT groupArray(1)(vector)[1] FROM current_images WHERE id = {image_id:UInt64}
                HAVING NOT throwIf({image_id:UInt64} != 0 AND count() = 0, 'no image has this image_id')
            )))
    ) AS target,
    (
        SELECT groupArray(toFloat64(dotProduct(vector, vdx_normalize(target))))
        FROM current_images
        WHERE id GLOBAL IN (SELECT id FROM random_images(seed = {concept:String}, n = 200))
    ) AS cosines,
    vdx_first_logit(cosines, {logit_scale:Float64}) AS logit
SELECT {concept:String} AS concept, 0::UInt32 AS round, {method:String} AS method, assumeNotNull(target) AS weight,
    assumeNotNull(logit.1) AS logit_scale, assumeNotNull(logit.2) AS bias, (0., 0., 0.) AS uncertainty, 0::UInt32 AS labels,
    NULL AS freedom, NULL AS average_precision, NULL AS text_average_precision,
    '' AS model, '' AS weights_hash, now64(6) AS created_at;

-- start_concept(concept, prompt): round 0 of a concept, the text vector of a prompt.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept(concept = 'circles', prompt = 'a circle')
CREATE OR REPLACE VIEW start_concept AS
WITH encoder_info() AS encoder
SELECT concept, round, method, weight, logit_scale, bias, uncertainty, labels, freedom, average_precision, text_average_precision,
    encoder['model'] AS model, encoder['weights_hash'] AS weights_hash, created_at
FROM start_near(concept = {concept:String}, method = 'text', vector = encode_text({prompt:String}), image_id = 0,
    logit_scale = toFloat64(encoder_info()['logit_scale']));

-- start_concept_from(concept, vector): round 0 from any vector, for example a picture's; it stands where a text vector would.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept_from(concept = 'like this', vector = encode_text('a circle'))
CREATE OR REPLACE VIEW start_concept_from AS
SELECT *
FROM start_near(concept = {concept:String}, method = 'vector', vector = {vector:Array(Float32)}, image_id = 0, logit_scale = 100);

-- start_concept_like(concept, image_id): round 0 from an image of the table.
-- Example: INSERT INTO classifiers SELECT * FROM start_concept_like(concept = 'like this', image_id = 42)
CREATE OR REPLACE VIEW start_concept_like AS
SELECT *
FROM start_near(concept = {concept:String}, method = 'vector', vector = CAST([], 'Array(Float32)'), image_id = {image_id:UInt64},
    logit_scale = 100);
