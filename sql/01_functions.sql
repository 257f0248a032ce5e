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
