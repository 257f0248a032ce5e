-- The health of a data set: what is odd at a glance, and how many images are. `dataset` '' means all.
-- dark, bright, odd shape, odd size and low information are cleanvision's issues (github.com/cleanlab/cleanvision, image_property.py), of the
-- picture as a viewer shows it, reduced to 256 pixels.

-- health_rules: from which number on a picture is odd: below `least` or above `most`. The one place where these are said.
-- Example: SELECT issue, fact, least, most, why FROM health_rules
CREATE OR REPLACE VIEW health_rules AS
SELECT issue, fact, least, most, why
FROM
(
    SELECT arrayJoin([
        ('tiny', 'pixels of its shorter side', 64, NULL, 'CLIP looks at 224 pixels or more: it is enlarged more than three times'),
        ('odd shape', 'shorter side over longer side', 0.35, NULL, 'CLIP sees the square in its middle: about a third of it (cleanvision)'),
        ('dark', '99th percentile of its brightness', 0.32, NULL, 'nearly all of it is dark (cleanvision)'),
        ('bright', '5th percentile of its brightness', NULL, 0.95, 'nearly all of it is white (cleanvision)'),
        ('blurred', 'standard deviation of its Laplacian', 4, NULL, 'photographs blurred by 1 % of their longer side lie below; so do plain and very dark ones'),
        ('low information', 'entropy in bits', 3, NULL, 'its grey levels say no more than 8 equally frequent ones (cleanvision)'),
        ('grey', 'colourfulness', 2, NULL, 'JPEG makes grey of up to 1 in 255 coloured; 15 is slightly colourful')
    ]::Array(Tuple(issue String, fact String, least Nullable(Float64), most Nullable(Float64), why String))) AS rule,
        rule.issue AS issue, rule.fact AS fact, rule.least AS least, rule.most AS most, rule.why AS why
);

-- image_facts(dataset): of the images whose picture was measured what picture_facts knows of it.
-- Example: SELECT source, width, height FROM image_facts(dataset = 'holiday') WHERE width > 2 * height
CREATE OR REPLACE VIEW image_facts AS
WITH wanted AS
(
    SELECT id, source, dataset, vdx_picture_key(source, content_hash) AS content_hash
    FROM current_images
    WHERE {dataset:String} = '' OR dataset = {dataset:String}
)
SELECT id, source, dataset, width, height, format, orientation, brightness, darkest, brightest, sharpness, entropy, colourfulness
FROM wanted
GLOBAL INNER JOIN
(
    SELECT * FROM picture_facts WHERE content_hash GLOBAL IN (SELECT content_hash FROM wanted) LIMIT 1 BY content_hash
) AS kept USING (content_hash);

-- missing_picture_facts(dataset): rows for picture_facts, of images that have none and whose picture the encoder can read by its source.
-- Example: SELECT hex(content_hash), width, height FROM missing_picture_facts(dataset = 'holiday')
CREATE OR REPLACE VIEW missing_picture_facts AS
SELECT content_hash, made.width AS width, made.height AS height, made.format AS format, made.orientation AS orientation,
    made.brightness AS brightness, made.darkest AS darkest, made.brightest AS brightest, made.sharpness AS sharpness,
    made.entropy AS entropy, made.colourfulness AS colourfulness
FROM
(
    SELECT content_hash, vdx_picture_facts(source) AS made
    FROM
    (
        SELECT vdx_picture_key(source, content_hash) AS content_hash, source
        FROM current_images
        WHERE ({dataset:String} = '' OR dataset = {dataset:String})
            AND vdx_picture_key(source, content_hash) GLOBAL NOT IN (SELECT content_hash FROM picture_facts)
        -- Without it, the condition on the error would be computed together with this one, so for what is kept, too.
        LIMIT 1 BY content_hash
    )
)
WHERE made.error = '';

-- kept_mistakes: likely label mistakes that were looked for, kept, every image that was looked at among them; current_mistakes has those
-- that still hold.
-- Example: INSERT INTO kept_mistakes SELECT * FROM judged_labels(dataset = 'holiday', attribute = 'shape')
CREATE TABLE IF NOT EXISTS kept_mistakes
(
    dataset LowCardinality(String),
    attribute LowCardinality(String),
    id UInt64,
    given String,
    suggested String,
    suspicion Float64,
    found_at DateTime64(3) MATERIALIZED now64(3),    -- as in near_pairs
    insert_id String MATERIALIZED initialQueryID()   -- as in neighbours
)
ENGINE = ReplacingMergeTree ORDER BY (dataset, attribute, id);

-- judged_labels(dataset, attribute): rows for kept_mistakes, by likely_mistakes.
-- Example: SELECT id, given, suggested FROM judged_labels(dataset = 'holiday', attribute = 'shape') WHERE suspicion > 0.5
CREATE OR REPLACE VIEW judged_labels AS
SELECT {dataset:String} AS dataset, {attribute:String} AS attribute, id, given, suggested, suspicion
FROM likely_mistakes(dataset = {dataset:String}, attribute = {attribute:String});

-- current_mistakes(dataset): of the last INSERT INTO kept_mistakes for a data set and attribute the rows whose image is there, did not
-- change since and still has that label; a mistake is one of suspicion above 0.5.
-- Example: SELECT id, given, suggested FROM current_mistakes(dataset = 'holiday') WHERE attribute = 'shape' AND suspicion > 0.5
CREATE OR REPLACE VIEW current_mistakes AS
WITH kept AS
(
    SELECT attribute, id, given, suggested, suspicion, found_at, insert_id FROM kept_mistakes FINAL WHERE dataset = {dataset:String}
)
SELECT attribute, id, source, given, suggested, suspicion
FROM kept
INNER JOIN
(
    SELECT id, source, loaded_at, attributes FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String}
) AS pictures USING (id)
WHERE (attribute, insert_id) IN (SELECT attribute, argMax(insert_id, found_at) FROM kept GROUP BY attribute)
    AND loaded_at <= found_at AND attributes[attribute] = given;

-- odd_images(dataset): images with something odd about them by health_rules, or whose size is far from the others' (odd size): what
-- it is, by which number and why. An image comes once for each issue.
-- Example: SELECT issue, source, number, why FROM odd_images(dataset = 'holiday')
CREATE OR REPLACE VIEW odd_images AS
WITH
    sized AS (SELECT *, sqrt(toFloat64(width) * height) AS side FROM image_facts(dataset = {dataset:String})),
    assumeNotNull((SELECT vdx_far(groupArray(side)) FROM sized))::Tuple(Float64, Float64) AS far,
    numbered AS
    (
        SELECT id, source, numbers.1 AS issue, numbers.2 AS number
        FROM
        (
            SELECT id, source, arrayJoin([
                ('tiny', toFloat64(least(width, height))),
                ('odd shape', least(width, height) / greatest(width, height, 1)),
                ('odd size', side),
                ('dark', toFloat64(brightest)),
                ('bright', toFloat64(darkest)),
                ('blurred', toFloat64(sharpness)),
                ('low information', toFloat64(entropy)),
                ('grey', toFloat64(colourfulness))
            ]) AS numbers
            FROM sized
        )
    )
SELECT issue, id, source, number, format('{}: {}', fact, toString(round(number, 3))) AS why
FROM numbered
INNER JOIN
(
    SELECT issue, fact, least, most FROM health_rules
    UNION ALL
    SELECT 'odd size', 'square root of its pixels', far.1, far.2
) AS rules USING (issue)
WHERE ifNull(number < least, false) OR ifNull(number > most, false);

-- health_images(dataset, issue, k): the images of an issue of health, k at most, the worst first: by which number and why. Of `rejected`
-- the rejects.
-- Example: SELECT source, number, why FROM health_images(dataset = 'holiday', issue = 'dark', k = 9)
CREATE OR REPLACE VIEW health_images AS
WITH
    distances AS
    (
        SELECT id, 1 - avg(cosine) AS distance
        FROM current_neighbours(dataset = {dataset:String})
        WHERE {issue:String} = 'outlier'
        GROUP BY id
    ),
    groups AS
    (
        SELECT group_id, id, source, keep, count() OVER images_alike AS alike, anyIf(source, keep) OVER images_alike AS kept
        -- No cosine reaches 3: for another issue no groups are looked for.
        FROM near_duplicate_groups(dataset = {dataset:String}, least = if({issue:String} = 'near duplicate', -2, 3))
        WINDOW images_alike AS (PARTITION BY group_id)
    )
SELECT id, source, number, why
FROM
(
    SELECT id, source, number, why, if(issue IN (SELECT issue FROM health_rules WHERE isNull(least)), -number, number) AS place
    FROM odd_images(dataset = {dataset:String})
    WHERE issue = {issue:String}
    UNION ALL
    SELECT id, source, toFloat64(size) AS number, error AS why, 0 AS place
    FROM current_rejects
    WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND ({issue:String} = 'rejected' OR {issue:String} = concat('rejected: ', error))
    UNION ALL
    SELECT id, source, toFloat64(alike) AS number, format('near {}', kept) AS why, toFloat64(group_id) AS place
    FROM groups
    WHERE NOT keep
    UNION ALL
    SELECT id, source, suspicion AS number, format('{}? {}', given, suggested) AS why, -suspicion AS place
    FROM current_mistakes(dataset = {dataset:String})
    WHERE suspicion > 0.5 AND ({issue:String} = 'likely mistake' OR {issue:String} = concat('likely mistake: ', attribute))
    UNION ALL
    SELECT id, source, toFloat64(size) AS number, 'not measured' AS why, 0 AS place
    FROM current_images
    WHERE {issue:String} = 'not measured' AND ({dataset:String} = '' OR dataset = {dataset:String})
        AND vdx_picture_key(source, content_hash) GLOBAL NOT IN (SELECT content_hash FROM picture_facts)
    UNION ALL
    SELECT id, source, distance AS number, format('mean distance to its neighbours: {}', toString(round(distance, 3))) AS why, -distance AS place
    FROM distances
    INNER JOIN (SELECT id, source FROM current_images WHERE {issue:String} = 'outlier') AS pictures USING (id)
    WHERE distance > (SELECT vdx_far(groupArray(distance)).2 FROM distances)
)
ORDER BY place, id
LIMIT {k:UInt32};

-- health(dataset): what is odd about a data set: each issue, the images that have it and their share of those that were looked at, and
-- the statement that lists them. Where nothing was looked for yet images and share are NULL, and the statement is the one that looks; it
-- is '' where there is nothing to look at. Rejects come all together and by reason.
-- Example: SELECT issue, images, share, statement FROM health(dataset = 'holiday')
CREATE OR REPLACE VIEW health AS
WITH
    assumeNotNull((SELECT count() FROM current_images WHERE {dataset:String} = '' OR dataset = {dataset:String})) AS there,
    assumeNotNull((SELECT count() FROM image_facts(dataset = {dataset:String}))) AS measured,
    (
        SELECT argMin(attribute, (attribute != 'label', attribute)) FROM attribute_counts(dataset = {dataset:String})
    ) AS label,
    format('dataset = {}', vdx_quoted({dataset:String})) AS which,
    format('INSERT INTO picture_facts SELECT * FROM missing_picture_facts({})', which) AS measure,
    rejected AS
    (
        SELECT error, count() AS rejects FROM current_rejects WHERE {dataset:String} = '' OR dataset = {dataset:String} GROUP BY error
    ),
    assumeNotNull((SELECT sum(rejects) FROM rejected)) AS all_rejects,
    distances AS (SELECT 1 - avg(cosine) AS distance FROM current_neighbours(dataset = {dataset:String}) GROUP BY id),
    found AS
    (
        SELECT 1 AS place, 'rejected' AS issue, 'could not be embedded' AS means, all_rejects AS images, all_rejects + there AS looked_at, '' AS look
        UNION ALL
        SELECT 2, concat('rejected: ', error), 'for this reason', rejects, all_rejects + there, '' FROM rejected
        UNION ALL
        SELECT 3, 'near duplicate', 'copies beside the one to keep, by kept pairs',
            countIf(NOT keep), if(count() = 0, 0, there),
            format('INSERT INTO near_pairs SELECT * FROM near_duplicates({}, least = 0.98)', which)
        FROM near_duplicate_groups(dataset = {dataset:String}, least = -2)
        UNION ALL
        SELECT 4, concat('likely mistake: ', attribute), 'more speaks against the label than for it', countIf(suspicion > 0.5), count(), ''
        FROM current_mistakes(dataset = {dataset:String})
        GROUP BY attribute
        UNION ALL
        SELECT 4, concat('likely mistake: ', label), 'more speaks against the label than for it', 0, 0,
            format('INSERT INTO kept_mistakes SELECT * FROM judged_labels({}, attribute = {})', which, vdx_quoted(label))
        WHERE label != '' AND label NOT IN (SELECT attribute FROM current_mistakes(dataset = {dataset:String}))
        UNION ALL
        SELECT 5, 'outlier', 'far from its neighbours: three interquartile ranges above the upper quartile',
            countIf(distance > (SELECT vdx_far(groupArray(distance)).2 FROM distances)), count(),
            format('INSERT INTO neighbours SELECT * FROM nearest_neighbours({}, k = 10)', which)
        FROM distances
        UNION ALL
        SELECT 6, issue, max(meaning), countIf(is_odd), measured, measure
        FROM
        (
            SELECT issue, concat(fact, ' ', if(isNull(least), concat('above ', toString(most)), concat('below ', toString(least)))) AS meaning, false AS is_odd
            FROM health_rules
            UNION ALL
            SELECT 'odd size', 'square root of its pixels three interquartile ranges beyond the quartiles', false
            UNION ALL
            SELECT issue, '', true FROM odd_images(dataset = {dataset:String})
        )
        GROUP BY issue
        UNION ALL
        SELECT 7, 'not measured', 'no picture_facts; left by the statement: the encoder cannot read them', toUInt64(there - measured), there, measure
        WHERE measured < there
    )
SELECT
    issue,
    means,
    if(looked_at = 0 AND there > 0, NULL, images) AS images,
    if(looked_at = 0, NULL, images / looked_at) AS share,
    looked_at,
    multiIf(
        isNull(images) OR issue = 'not measured', look,
        images = 0, '',
        format('SELECT * FROM health_images({}, issue = {}, k = 100)', which, vdx_quoted(issue))) AS statement
FROM found
ORDER BY place, images DESC, issue;
