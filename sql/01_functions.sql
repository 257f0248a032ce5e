-- SQL functions. ClickHouse keeps functions in one server-wide namespace, so all but the contract's own carry `vdx_`.

-- encoder_info(): the encoder's model, dimension, precision, counters and last error.
-- Example: SELECT encoder_info()['dimension']
CREATE OR REPLACE FUNCTION encoder_info AS () -> vdx_encoder_info('now');

-- vdx_is_picture(path): whether a file's name ends as those of the formats that encode_image reads, or that it names a package for.
-- Example: SELECT vdx_is_picture('/pictures/IMG_1.Jpg')
CREATE OR REPLACE FUNCTION vdx_is_picture AS (path) -> lower(extract(path, '\\.([A-Za-z0-9]+)$')) IN (
    'jpg', 'jpeg', 'jpe', 'jfif', 'mpo', 'png', 'apng', 'webp', 'gif', 'bmp', 'dib', 'tif', 'tiff', 'avif', 'avifs',
    'jp2', 'j2k', 'jpf', 'jpx', 'jpc', 'j2c', 'pnm', 'ppm', 'pgm', 'pbm', 'pfm', 'ico', 'tga', 'icb', 'vda', 'vst', 'heic', 'heif', 'hif', 'jxl');

-- vdx_is_other_model(model, weights_hash, known): whether a row's vector is of other weights than the known ones, a tuple of both: the
-- encoder's, or those that a concept was trained on. Rows that came without a hash go by the model's name.
-- Example: SELECT vdx_is_other_model('vdx-tiny', 'abc', ('vdx-tiny', 'def'))
CREATE OR REPLACE FUNCTION vdx_is_other_model AS (model, weights_hash, known) ->
    weights_hash != known.2 AND (weights_hash != '' OR model != known.1);

-- vdx_refusal(held, encoder): why vectors are not compared, and what to do.
-- Example: SELECT vdx_refusal('1 vectors of vdx-tiny (weights abc)', ('vdx-tiny', 'def'))
CREATE OR REPLACE FUNCTION vdx_refusal AS (held, encoder) -> format(
    'images holds {}, but the encoder runs {} (weights {}), and vectors of different models do not compare: install the other'
    || ' model with vdx install, or load the pictures again and DELETE FROM images WHERE weights_hash != ''{}''',
    held, encoder.1, encoder.2, encoder.2);

-- vdx_at_least(value, bound): whether an attribute's value is the bound or more: ISO dates in the order of time, to the bound's own
-- precision (2024-05-02 is all of that day), T or a space before the time, time zones passed over; beside a bound that is a number as
-- numbers; otherwise in the order of texts. A value that is not there, or is no number beside one, is not.
-- Example: SELECT vdx_at_least('400', '50'), vdx_at_least('2024-03-01', '2024')
CREATE OR REPLACE FUNCTION vdx_at_least AS (value, bound) -> multiIf(
    match(value, '^[0-9]{4}-[0-9]{2}') AND match(bound, '^[0-9]{4}(-|$)'), replaceOne(value, 'T', ' ') >= replaceOne(bound, 'T', ' '),
    isNull(toFloat64OrNull(bound)), notEmpty(value) AND value >= bound,
    ifNull(toFloat64OrNull(value) >= toFloat64OrNull(bound), false));

-- vdx_at_most(value, bound): the same for the bound or less.
-- Example: SELECT vdx_at_most('50', '400'), vdx_at_most('2024-03-01 18:30:00', '2024-03')
CREATE OR REPLACE FUNCTION vdx_at_most AS (value, bound) -> multiIf(
    match(value, '^[0-9]{4}-[0-9]{2}') AND match(bound, '^[0-9]{4}(-|$)'),
    substring(replaceOne(value, 'T', ' '), 1, length(bound)) <= replaceOne(bound, 'T', ' '),
    isNull(toFloat64OrNull(bound)), notEmpty(value) AND value <= bound,
    ifNull(toFloat64OrNull(value) <= toFloat64OrNull(bound), false));

-- vdx_passes(attributes, any_of, none_of, at_least, at_most): whether attributes hold one of the values of each key of any_of, none of
-- those of none_of, and lie within the bounds of the other two; empty maps ask for nothing.
-- Example: SELECT vdx_passes(map('iso', '200'), map('iso', ['100', '200']), map('iso', ['25']), map('iso', '50'), map('iso', '400'))
CREATE OR REPLACE FUNCTION vdx_passes AS (attributes, any_of, none_of, at_least, at_most) ->
    arrayAll((key, values) -> has(values, attributes[key]), mapKeys(any_of), mapValues(any_of))
    AND NOT arrayExists((key, values) -> has(values, attributes[key]), mapKeys(none_of), mapValues(none_of))
    AND arrayAll((key, bound) -> vdx_at_least(attributes[key], bound), mapKeys(at_least), mapValues(at_least))
    AND arrayAll((key, bound) -> vdx_at_most(attributes[key], bound), mapKeys(at_most), mapValues(at_most));

-- vdx_is_rare(passing, rows, k): whether so few rows of a sample pass a filter that 1,000 images may not hold k that do: then a search
-- compares all that pass at once.
-- Example: SELECT vdx_is_rare(1, 976, 10)
CREATE OR REPLACE FUNCTION vdx_is_rare AS (passing, rows, k) -> 1000 * passing < (k + sqrt(k)) * rows;

-- vdx_words(caption, attributes): the words of a picture, in lower case: those of its caption and of its attributes' values.
-- Example: SELECT vdx_words('A red Circle.', map('shape', 'circle'))
CREATE OR REPLACE FUNCTION vdx_words AS (caption, attributes) ->
    splitByNonAlpha(lowerUTF8(concat(caption, ' ', arrayStringConcat(mapValues(attributes), ' '))));

-- vdx_literal(path): a path as a glob that matches it, whatever signs of globs its name holds; WHERE startsWith(_path, path) leaves
-- out what else that matches.
-- Example: SELECT vdx_literal('/pictures/who?')
CREATE OR REPLACE FUNCTION vdx_literal AS (path) -> replaceRegexpAll(path, '[*?{}]', '?');

-- vdx_content_hash(source, bytes): the SHA-256 by which a picture is known: of its bytes, or of its source where that was
-- given alone.
-- Example: SELECT hex(vdx_content_hash('https://example.com/1.jpg', ''))
CREATE OR REPLACE FUNCTION vdx_content_hash AS (source, bytes) -> SHA256(if(empty(bytes), source, bytes));

-- vdx_source(source, bytes): the name that a picture goes by: its source or, where it was given none, its SHA-256.
-- Example: SELECT vdx_source('', 'bytes of a picture')
CREATE OR REPLACE FUNCTION vdx_source AS (source, bytes) ->
    if(empty(source) AND notEmpty(bytes), concat('sha256:', lower(hex(SHA256(bytes)))), source);

-- vdx_picture(source, bytes): a picture as encode_image takes it: its bytes or, where they were not given, its source. The zero byte says
-- that a short text is a broken picture's content, not a path; no picture format minds it.
-- Example: SELECT vdx_picture('/pictures/1.jpg', '')
CREATE OR REPLACE FUNCTION vdx_picture AS (source, bytes) -> multiIf(
    empty(bytes), source, length(bytes) <= 4096 AND (isValidUTF8(bytes) OR startsWith(bytes, '/')), bytes || '\0', bytes);

-- vdx_picture_key(source, content_hash): the hash that a picture's thumbnails are kept by: its content's, or its source's where a row
-- came without one, as those of published vectors do.
-- Example: SELECT hex(vdx_picture_key('https://example.com/1.jpg', toFixedString('', 32)))
CREATE OR REPLACE FUNCTION vdx_picture_key AS (source, content_hash) ->
    if(content_hash = toFixedString('', 32), SHA256(source), content_hash);

-- vdx_data_url(jpeg): a thumbnail as text that tables of Grafana, notebooks and HTML show as a picture; '' of no bytes.
-- Example: SELECT source, vdx_data_url(try_thumbnail(source, 96).bytes) AS picture FROM images LIMIT 10
CREATE OR REPLACE FUNCTION vdx_data_url AS (jpeg) -> if(empty(jpeg), '', concat('data:image/jpeg;base64,', base64Encode(jpeg)));

-- vdx_quoted(text): the text as a literal of SQL.
-- Example: SELECT vdx_quoted('it''s')
CREATE OR REPLACE FUNCTION vdx_quoted AS (text) -> concat('\'', replaceAll(replaceAll(text, '\\', '\\\\'), '\'', '\\\''), '\'');

-- vdx_far(values): the bounds beyond which a value is far from the others: three interquartile ranges from the quartiles (Tukey 1977).
-- Example: SELECT vdx_far([1, 2, 3, 4, 100])
CREATE OR REPLACE FUNCTION vdx_far AS (values) -> arrayMap(
    quartiles -> (quartiles[1] - 3 * (quartiles[2] - quartiles[1]), quartiles[2] + 3 * (quartiles[2] - quartiles[1])),
    [if(empty(values), [0., 0.], arrayReduce('quantilesExactInclusive(0.25, 0.75)', values))])[1];

-- vdx_normalize(vector): the vector scaled to length 1; one of zeros stays as it is.
-- Example: SELECT vdx_normalize([3, 4])
CREATE OR REPLACE FUNCTION vdx_normalize AS (vector) -> vector / if(L2Norm(vector) = 0, 1, L2Norm(vector));

-- vdx_directed(vector): the vector itself; an error where it is zero or not finite, since nothing is nearer to such a one than anything else.
-- (An empty one passes: it stands for a subquery's vector while ClickHouse analyses an INSERT.)
-- Example: SELECT vdx_directed([3, 4])
CREATE OR REPLACE FUNCTION vdx_directed AS (vector) -> arrayFilter(
    given -> NOT throwIf(notEmpty(given) AND NOT isFinite(log(L2Norm(given))),
        'a vector that is zero or not finite has no direction, so nothing is near to it'),
    [vector])[1];

-- vdx_jitter(vector, seed): the vector with each number moved by up to 0.2 %, always the same for a seed; length 1, cosine
-- to the vector above 0.999999.
-- Example: SELECT vdx_jitter([0.6, 0.8], 42)
CREATE OR REPLACE FUNCTION vdx_jitter AS (vector, seed) -> vdx_normalize(arrayMap(
    (number, place) -> toFloat32(number * (1 + 0.004 * (sipHash64(seed, place) / 18446744073709551616 - 0.5))),
    vector, arrayEnumerate(vector)));

-- vdx_region_vector(whole, part): what regions holds of a part of a picture, one number longer than the vectors of both: their mean, and
-- what its length is short of 1, so that cosines to vdx_region_target are inner products (Bachrach et al., Speeding up the Xbox recommender
-- system, RecSys 2014). With less of the whole, things that fill their picture are lost to parts of others; with more, small ones
-- (docs/regions.md).
-- Example: SELECT vdx_region_vector([0.6, 0.8], [1, 0])
CREATE OR REPLACE FUNCTION vdx_region_vector AS (whole, part) -> arrayMap(
    mixed -> arrayPushBack(mixed, sqrt(greatest(0, 1 - dotProduct(mixed, mixed))))::Array(Float32), [whole * 0.5 + part * 0.5])[1];

-- vdx_region_target(vector): a vector to compare the regions' with.
-- Example: SELECT length(vdx_region_target(encode_text('a cat')))
CREATE OR REPLACE FUNCTION vdx_region_target AS (vector) -> arrayPushBack(vector, 0)::Array(Float32);

-- vdx_box(x, y, width, height): a part of a picture, in shares of its width and height from the top left corner.
-- Example: SELECT vdx_box(0, 0, 1, 1)
CREATE OR REPLACE FUNCTION vdx_box AS (x, y, width, height) -> (x, y, width, height)::Tuple(x Float32, y Float32, width Float32, height Float32);

-- vdx_overlap(a, b): the share of two boxes' union that both cover (intersection over union); boxes are (x, y, width, height).
-- Example: SELECT vdx_overlap((0, 0, 0.5, 1), (0.25, 0, 0.5, 1))
CREATE OR REPLACE FUNCTION vdx_overlap AS (a, b) -> arrayMap(
    shared -> shared / greatest(1e-9, a.3 * a.4 + b.3 * b.4 - shared),
    [greatest(0., least((a.1 + a.3)::Float64, (b.1 + b.3)::Float64) - greatest(a.1::Float64, b.1::Float64))
        * greatest(0., least((a.2 + a.4)::Float64, (b.2 + b.4)::Float64) - greatest(a.2::Float64, b.2::Float64))])[1];

-- vdx_sigmoid(logit): the probability of a logit.
-- Example: SELECT vdx_sigmoid(0)
CREATE OR REPLACE FUNCTION vdx_sigmoid AS (logit) -> 1 / (1 + exp(-logit));

-- vdx_probability(vector, unit, logit_scale, bias): the probability of a picture under a classifier of unit length.
-- Example: SELECT vdx_probability([0.6, 0.8], [1, 0], 10, -5)
CREATE OR REPLACE FUNCTION vdx_probability AS (vector, unit, logit_scale, bias) -> vdx_sigmoid(logit_scale * dotProduct(vector, unit) + bias);

-- vdx_softmax(logits): probabilities that add up to 1.
-- Example: SELECT vdx_softmax([1, 1])
CREATE OR REPLACE FUNCTION vdx_softmax AS (logits) ->
    arrayMap(x -> exp(x - arrayMax(logits)), logits) / arraySum(arrayMap(x -> exp(x - arrayMax(logits)), logits));

-- vdx_inverse(matrix): the inverse of a symmetric positive definite matrix, by Gauss-Jordan elimination in place without pivoting: of each
-- step one outer product, 0.6 s for 512 x 512. In the step's own place the pivot row holds 1 + 1 / pivot and the column
-- pivot - 1, which makes the row, the column and the pivot come out as those of the elimination too.
-- Example: SELECT vdx_inverse([[2., 1.], [1., 2.]])
CREATE OR REPLACE FUNCTION vdx_inverse AS (matrix) -> arrayFold(
    (rows, step) -> arrayMap(
        (pivot_row, column) -> arrayMap(
            (row, factor) -> arrayMap((x, y) -> x - factor * y, row, pivot_row),
            rows, column),
        [arrayMap(
            (x, place, pivot) -> if(place = step, 1 + 1 / x, x / pivot),
            rows[step], arrayEnumerate(rows), arrayWithConstant(length(rows), rows[step][step]))],
        [arrayMap((row, place) -> if(place = step, row[step] - 1, row[step]), rows, arrayEnumerate(rows))])[1],
    arrayEnumerate(matrix), matrix);

-- vdx_prompt(template, label): the template with the label in place of {}.
-- Example: SELECT vdx_prompt('a photo of a {}.', 'cat')
CREATE OR REPLACE FUNCTION vdx_prompt AS (template, label) -> replaceAll(template, '{}', label);

-- vdx_first_logit(cosines, logit_scale): logit scale and bias of a concept's round 0, by the cosines of random pictures to its
-- vector: 0.5 is the probability of a picture two standard deviations above their mean, and a standard deviation is a
-- logit of 3 at most. The bias is 0 where there are no pictures.
-- Example: SELECT vdx_first_logit([0.1, 0.3], 100)
CREATE OR REPLACE FUNCTION vdx_first_logit AS (cosines, logit_scale) -> arrayMap(
    deviation -> arrayMap(
        scale -> (scale, -scale * if(empty(cosines), 0, arrayAvg(cosines) + 2 * deviation)),
        [if(deviation > 0, least(toFloat64(logit_scale), 3 / deviation), toFloat64(logit_scale))])[1],
    [if(empty(cosines), 0, arrayReduce('stddevPop', cosines))])[1];

-- vdx_sgd_step(weight, vectors, labels, learning_rate): one step of gradient descent on the mean binary cross-entropy of
-- a linear classifier without bias; the weight is L2-normalised before the step, not after it.
-- Example: SELECT vdx_sgd_step([1., 0.], [[1., 0.], [0., 1.]], [1, 0], 0.1)
CREATE OR REPLACE FUNCTION vdx_sgd_step AS (weight, vectors, labels, learning_rate) ->
    arrayMap(
        unit -> unit - learning_rate * arrayReduce('avgForEach', arrayMap(
            (vector, label) -> vector * (vdx_sigmoid(dotProduct(vector, unit)) - label), vectors, labels)),
        [vdx_normalize(weight)])[1];

-- vdx_average_precision(labels, scores): mean, over the positive labels (1 or true), of the precision among all rows scored
-- at least as high; rows of equal score count together. NaN without a positive label.
-- Example: SELECT vdx_average_precision([1, 0, 1], [0.9, 0.5, 0.4])
CREATE OR REPLACE FUNCTION vdx_average_precision AS (labels, scores) -> arrayMap(
    ranked -> arraySum(arrayMap(
        (positive, precision) -> positive * precision,
        ranked.1,
        -- Each row's precision is that of the last of its equals.
        arrayReverseFill(
            (precision, is_last) -> is_last,
            arrayMap((found, rank) -> found / rank, arrayCumSum(ranked.1), arrayEnumerate(ranked.1)),
            arrayMap((score, next) -> score != next, ranked.2, arraySlice(arrayPushBack(arrayPopFront(ranked.2), nan), 1, length(ranked.2))))))
        / arraySum(ranked.1),
    [arrayReverseSort(pair -> pair.2, arrayZip(arrayMap(label -> toFloat64(label), labels), arrayMap(score -> toFloat64(score), scores)))])[1];

-- vdx_average_precision_interval(average_precision, positives): the 95 % interval, low and high, of an average precision that was
-- measured on so many positive rows. Its variance is taken as that of a share of them (Boyd, Eng and Page, Area under the
-- Precision-Recall Curve: Point Estimates and Confidence Intervals, 2013), its form is Wilson's (1927), which stays within 0 and 1. In
-- simulations with 10 or 100 negatives it holds the truth 94 to 100 times in 100 from 8 positives on, 86 to 100 with 2 or 4.
-- Example: SELECT vdx_average_precision_interval(0.8, 12)
CREATE OR REPLACE FUNCTION vdx_average_precision_interval AS (average_precision, positives) -> (
    (positives * average_precision + 1.9208 - 1.96 * sqrt(positives * average_precision * (1 - average_precision) + 0.9604))
        / (positives + 3.8416),
    (positives * average_precision + 1.9208 + 1.96 * sqrt(positives * average_precision * (1 - average_precision) + 0.9604))
        / (positives + 3.8416));

-- vdx_hits_at(labels, scores, k): how many of the k highest scores have a positive label; of equal scores the earlier first.
-- Example: SELECT vdx_hits_at([1, 0, 1], [0.9, 0.5, 0.4], 2)
CREATE OR REPLACE FUNCTION vdx_hits_at AS (labels, scores, k) ->
    arraySum(arraySlice(arraySort((label, score) -> -score, arrayMap(label -> toFloat64(label), labels), scores), 1, k));

-- vdx_precision_at(labels, scores, k): the share of positive labels among the k highest scores.
-- Example: SELECT vdx_precision_at([1, 0, 1], [0.9, 0.5, 0.4], 2)
CREATE OR REPLACE FUNCTION vdx_precision_at AS (labels, scores, k) -> vdx_hits_at(labels, scores, k) / least(k, length(scores));

-- vdx_recall_at(labels, scores, k): the share of all positive labels that the k highest scores hold.
-- Example: SELECT vdx_recall_at([1, 0, 1], [0.9, 0.5, 0.4], 2)
CREATE OR REPLACE FUNCTION vdx_recall_at AS (labels, scores, k) ->
    vdx_hits_at(labels, scores, k) / arraySum(arrayMap(label -> toFloat64(label), labels));

-- vdx_anchored_fit(kernel, prior, labels, costs): the coefficients a that minimise, over the rows, sum(costs * log-loss of
-- the logits prior + kernel a) + a' kernel a / 2: logistic regression around a prior, in kernel form, so that a step costs
-- rows x rows whatever the dimension. Nesterov's accelerated gradient (Introductory Lectures on Convex Optimization, 2004,
-- scheme 2.2.22 for strong convexity 1) rather than Newton: its steps are matrix-vector products, which arrayFold can do,
-- it cannot overshoot, and 14 sqrt(L) steps bring the objective within 1e-6 of its minimum. arrayFold's state is (a, a before).
-- Example: SELECT vdx_anchored_fit([[1., 0.], [0., 1.]], [0., 0.], [1., 0.], [1., 1.])
CREATE OR REPLACE FUNCTION vdx_anchored_fit AS (kernel, prior, labels, costs) -> arrayMap(
    smoothness -> tupleElement(arrayFold(
        (state, step) -> arrayMap(
            ahead -> arrayMap(
                (here, logit, label, cost, pair) -> (here - (cost * (vdx_sigmoid(logit) - label) + here) / smoothness, pair.1),
                ahead,
                arrayMap((row, start) -> start + dotProduct(row, ahead), kernel, prior),
                labels, costs, state),
            [arrayMap(pair -> pair.1 + (sqrt(smoothness) - 1) / (sqrt(smoothness) + 1) * (pair.1 - pair.2), state)])[1],
        range(toUInt32(least(14 * sqrt(smoothness), 2000))),
        arrayMap(label -> (0., 0.), labels)), 1),
    -- The largest eigenvalue of the Hessian is at most the largest row sum (Gershgorin).
    [1 + arrayMax(arrayMap(row -> dotProduct(arrayMap(x -> abs(x), row), costs), kernel)) / 4])[1];

-- vdx_log_loss(logit, label): the negative logarithm of the probability that a logit gives to a label (1 or 0).
-- Example: SELECT vdx_log_loss(0, 1)
CREATE OR REPLACE FUNCTION vdx_log_loss AS (logit, label) -> log1p(exp(-abs(logit))) + greatest(0, if(label > 0.5, -logit, logit));

-- vdx_platt_step(line, logits, labels): one Newton step of the calibration slope * logit + offset under log-loss, for a slope
-- of 1 +- 1 and an offset of 0 +- 2. A line is (slope, offset, slope's variance, covariance, offset's variance); the step
-- fills in the last three, of where it started.
-- Example: SELECT vdx_platt_step((1., 0., 0., 0., 0.), [2., -1.], [1., 0.])
CREATE OR REPLACE FUNCTION vdx_platt_step AS (line, logits, labels) -> arrayMap(
    sums -> (
        line.1 - (sums.5 * sums.1 - sums.4 * sums.2) / (sums.3 * sums.5 - sums.4 * sums.4),
        line.2 - (sums.3 * sums.2 - sums.4 * sums.1) / (sums.3 * sums.5 - sums.4 * sums.4),
        sums.5 / (sums.3 * sums.5 - sums.4 * sums.4),
        -sums.4 / (sums.3 * sums.5 - sums.4 * sums.4),
        sums.3 / (sums.3 * sums.5 - sums.4 * sums.4)),
    -- Gradient by slope and offset, then the Hessian's three numbers.
    arrayMap(
        p -> (
            arraySum(arrayMap((q, logit, label) -> (q - label) * logit, p, logits, labels)) + line.1 - 1,
            arraySum(arrayMap((q, label) -> q - label, p, labels)) + line.2 / 4,
            arraySum(arrayMap((q, logit) -> q * (1 - q) * logit * logit, p, logits)) + 1,
            arraySum(arrayMap((q, logit) -> q * (1 - q) * logit, p, logits)),
            arraySum(arrayMap(q -> q * (1 - q), p)) + 1 / 4),
        [arrayMap(logit -> vdx_sigmoid(line.1 * logit + line.2), logits)]))[1];
