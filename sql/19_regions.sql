-- Small things in large pictures: searches and rounds over parts of pictures, see the table regions.

-- missing_regions(dataset, levels): rows for regions, of a data set's images ('': all) that have none of so many levels (0 to 3) and whose
-- picture the encoder can read and looks as it did when it was loaded; one that changed since is to be loaded again first. Equal parts are many
-- (sky, paper), and equal vectors make an index build slow: each gets a jitter.
-- Example: SELECT image_id, place, box FROM missing_regions(dataset = 'holiday', levels = 1)
CREATE OR REPLACE VIEW missing_regions AS
SELECT
    image_id, loaded_at, dataset, model, weights_hash,
    (number - 1)::UInt16 AS place, {levels:UInt8} AS levels, (part.1, part.2, part.3, part.4) AS box,
    vdx_region_vector(whole, if(place = 0, whole, vdx_jitter(part.5, sipHash64(image_id, place)))) AS vector
FROM
(
    SELECT id AS image_id, loaded_at, dataset, model, weights_hash, vector AS whole, try_encode_regions(source, {levels:UInt8}) AS cut
    FROM
    (
        SELECT id, loaded_at, dataset, model, weights_hash, vector, source
        FROM current_images
        WHERE NOT throwIf({levels:UInt8} > 3, 'missing_regions: levels are 0 to 3')
            AND ({dataset:String} = '' OR dataset = {dataset:String}) AND weights_hash = (SELECT encoder_info()['weights_hash'])
            AND (id, loaded_at) GLOBAL NOT IN (SELECT image_id, loaded_at FROM regions WHERE levels >= {levels:UInt8})
        -- Without it, the condition on the error would be computed together with this one, so for what has regions, too.
        LIMIT 1 BY id
    )
)
ARRAY JOIN cut.regions AS part, arrayEnumerate(cut.regions) AS number
WHERE cut.error = '' AND cosineDistance(cut.regions[1].5, whole) < 0.05;

-- current_regions: the regions of the images that count.
-- Example: SELECT image_id, place, box FROM current_regions ORDER BY image_id, place LIMIT 21
CREATE OR REPLACE VIEW current_regions AS
SELECT * FROM regions FINAL WHERE (image_id, loaded_at) GLOBAL IN (SELECT id, loaded_at FROM current_images);

-- unused_regions: regions of no image: it was deleted, or its content changed. DELETE FROM regions WHERE (image_id, loaded_at) IN (SELECT
-- image_id, loaded_at FROM unused_regions) removes them; until then searches look past them.
-- Example: SELECT count() FROM unused_regions
CREATE OR REPLACE VIEW unused_regions AS
SELECT image_id, loaded_at, place FROM regions WHERE (image_id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM current_images);

-- search_vector_regions_where(vector, dataset, attribute, value, k): the k images nearest to a vector by their nearest part, the whole
-- picture counting half, each once and with that part's box; filtered as search_vector_where does. An image without regions goes by
-- the whole. By the 256 (or 8 k) nearest of both indexes, which are searched four times as widely as elsewhere; where those do not
-- reach to the k nearest, all parts are compared.
-- Example: SELECT * FROM search_vector_regions_where(vector = encode_text('a red circle'), dataset = '', attribute = '', value = '', k = 9)
CREATE OR REPLACE VIEW search_vector_regions_where AS
WITH
    (SELECT vdx_directed({vector:Array(Float32)})) AS given,
    least(1000, greatest(256, 8 * {k:UInt32})) AS depth,
    -- Both indexes' nearest, and the distance up to which nothing is missing from them. Each query stands once: where it is referred to,
    -- it is planned again.
    (
        SELECT (
            groupArray((id, loaded_at, distance, box, is_there)),
            least(
                if(countIf(is_part) < any(depth), 3, maxIf(distance, is_part)), if(countIf(NOT is_part) < any(depth), 3, maxIf(distance, NOT is_part))))
        FROM
        (
            SELECT image_id AS id, loaded_at, cosineDistance(vector, vdx_region_target(given)) AS distance, box, _row_exists AS is_there, true AS is_part
            FROM regions
            WHERE {dataset:String} = '' OR dataset = {dataset:String}
            ORDER BY distance
            LIMIT depth
            SETTINGS apply_deleted_mask = 0, hnsw_candidate_list_size_for_search = 1000
            UNION ALL
            SELECT id, loaded_at, cosineDistance(vector, given) AS distance, vdx_box(0, 0, 1, 1), _row_exists, false
            FROM images
            WHERE {dataset:String} = '' OR dataset = {dataset:String}
            ORDER BY distance
            LIMIT depth
            SETTINGS apply_deleted_mask = 0, hnsw_candidate_list_size_for_search = 1000
        )
    ) AS hits,
    (
        SELECT groupArray((id, source, dataset, model, weights_hash, own[1].3, own[1].4))
        FROM
        (
            SELECT id, source, dataset, model, weights_hash,
                arraySort(hit -> hit.3, arrayFilter(hit -> hit.1 = id AND hit.2 = loaded_at AND hit.5 AND hit.3 <= hits.2, hits.1)) AS own
            FROM
            (
                SELECT id, source, dataset, model, weights_hash, loaded_at
                FROM images
                WHERE id IN (hits.1.1) AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
                    AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
                LIMIT 1 BY id
            )
            WHERE notEmpty(own)
            ORDER BY own[1].3
            LIMIT {k:UInt32}
            SETTINGS apply_deleted_mask = 1
        )
    ) AS near
SELECT id, source, dataset, distance, box
FROM
(
    SELECT hit.1 AS id, hit.2 AS source, hit.3 AS dataset, hit.4 AS model, hit.5 AS weights_hash, hit.6 AS distance, hit.7 AS box
    FROM (SELECT arrayJoin(near) AS hit)
    WHERE length(near) = {k:UInt32}
    UNION ALL
    SELECT id, max(source) AS source, max(dataset) AS dataset, max(model) AS model, max(weights_hash) AS weights_hash,
        min((near_by, part)).1 AS distance, min((near_by, part)).2 AS box
    FROM
    (
        -- The sum keeps both from the indexes.
        SELECT id, loaded_at, source, dataset, model, weights_hash, true AS is_image, cosineDistance(vector, given) + 0 AS near_by,
            vdx_box(0, 0, 1, 1) AS part
        FROM images
        WHERE length(near) < {k:UInt32} AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
            AND ({dataset:String} = '' OR dataset = {dataset:String})
            AND ({attribute:String} = '' OR attributes[{attribute:String}] = {value:String})
        UNION ALL
        SELECT image_id, loaded_at, '', '', '', '', false, cosineDistance(vector, vdx_region_target(given)) + 0, box
        FROM regions
        WHERE length(near) < {k:UInt32} AND ({dataset:String} = '' OR dataset = {dataset:String})
    )
    GROUP BY id, loaded_at
    HAVING max(is_image)
    ORDER BY distance
    LIMIT {k:UInt32}
)
WHERE vdx_check_weights(model, weights_hash, 1)
ORDER BY distance
LIMIT {k:UInt32};

-- search_vector_regions(vector, k): the k images with the part nearest to a vector, the whole picture counting half, each once and with that
-- part's box. An image without regions goes by the whole. By both indexes: of the parts' 15 k nearest (150 to 1000), so it may miss images,
-- or name a lesser part, where many parts of few are near (a panorama) or k is beyond 66; search_vector_regions_where looks further.
-- Example: SELECT * FROM search_vector_regions(vector = encode_text('a small red circle'), k = 9)
CREATE OR REPLACE VIEW search_vector_regions AS
WITH
    (SELECT vdx_directed({vector:Array(Float32)})) AS given,
    (
        SELECT groupArray((id, loaded_at, distance, box))
        FROM
        (
            SELECT image_id AS id, loaded_at, cosineDistance(vector, vdx_region_target(given)) AS distance, box, _row_exists AS is_there
            FROM regions
            ORDER BY distance
            LIMIT least(1000, greatest(150, 15 * {k:UInt32}))
            SETTINGS apply_deleted_mask = 0
            UNION ALL
            SELECT id, loaded_at, cosineDistance(vector, given) AS distance, vdx_box(0, 0, 1, 1), _row_exists
            FROM images
            ORDER BY distance
            LIMIT least(1000, 2 * {k:UInt32} + 20)
            SETTINGS apply_deleted_mask = 0
        )
        WHERE is_there
    ) AS hits
SELECT id, source, dataset, own[1].3 AS distance, own[1].4 AS box
FROM
(
    SELECT id, source, dataset, arraySort(hit -> hit.3, arrayFilter(hit -> hit.1 = id AND hit.2 = loaded_at, hits)) AS own
    FROM
    (
        SELECT id, source, dataset, loaded_at
        FROM images
        WHERE id IN (hits.1)
            AND vdx_check_weights(model, weights_hash, (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images))
        LIMIT 1 BY id -- or all rows would be looked up among the hits
    )
)
WHERE notEmpty(own)
ORDER BY distance
LIMIT {k:UInt32};

-- search_text_regions(query, k): the same for a text.
-- Example: SELECT * FROM search_text_regions(query = 'a small red circle', k = 9)
CREATE OR REPLACE VIEW search_text_regions AS
SELECT * FROM search_vector_regions(vector = encode_text({query:String}), k = {k:UInt32});

-- search_image_regions(image, x, y, width, height, k): the same for a part of a picture, which is given as encode_image takes it; of all of
-- it by 0, 0, 1, 1.
-- Example: SELECT * FROM search_image_regions(image = '/pictures/query.png', x = 0.25, y = 0.25, width = 0.5, height = 0.5, k = 9)
CREATE OR REPLACE VIEW search_image_regions AS
SELECT *
FROM search_vector_regions(
    vector = encode_image(vdx_cut({image:String}, {x:Float64}, {y:Float64}, {width:Float64}, {height:Float64})), k = {k:UInt32});

-- region_scores(vector, image_id): how near each part of an image is to a vector: "why this one" as a heat map.
-- Example: SELECT box, distance FROM region_scores(vector = encode_text('a red circle'), image_id = 42) ORDER BY distance LIMIT 3
CREATE OR REPLACE VIEW region_scores AS
SELECT place, box, cosineDistance(vector, vdx_region_target(vdx_directed({vector:Array(Float32)}))) AS distance
FROM regions
WHERE image_id = {image_id:UInt64} AND (image_id, loaded_at) GLOBAL IN (SELECT id, loaded_at FROM current_images WHERE id = {image_id:UInt64})
ORDER BY place
LIMIT 1 BY place;

-- scores_regions(concept): every image's probability under the concept's current classifier by its best part, and that part's box.
-- Example: SELECT id, probability, box FROM scores_regions(concept = 'circles') ORDER BY probability DESC LIMIT 9
CREATE OR REPLACE VIEW scores_regions AS
WITH assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current
SELECT id, any(name) AS source, any(set) AS dataset, vdx_sigmoid(current.2 * best.1 + current.3) AS probability, max((cosine, area)) AS best, best.2 AS box
FROM
(
    SELECT image_id AS id, dotProduct(vector, vdx_region_target(current.1)) AS cosine, box AS area FROM current_regions
    UNION ALL
    SELECT id, dotProduct(vector, current.1), vdx_box(0, 0, 1, 1) FROM current_images
) AS parts
INNER JOIN (SELECT id, source AS name, dataset AS set FROM current_images) AS known USING (id)
GROUP BY id;

-- search_concept_regions(concept, k): the k unjudged images whose best part is nearest to a concept's current weight, with that part's box.
-- Example: SELECT * FROM search_concept_regions(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW search_concept_regions AS
WITH
    (SELECT weight FROM current_weight(concept = {concept:String}) SETTINGS apply_deleted_mask = 1) AS given,
    (SELECT {k:UInt32} + count() FROM current_labels WHERE concept = {concept:String} SETTINGS apply_deleted_mask = 1) AS wanted,
    (
        SELECT groupArray((id, loaded_at, distance, box))
        FROM
        (
            SELECT image_id AS id, loaded_at, cosineDistance(vector, vdx_region_target(given)) AS distance, box, _row_exists AS is_there
            FROM regions
            ORDER BY distance
            LIMIT greatest(150, 15 * assumeNotNull(wanted))
            SETTINGS apply_deleted_mask = 0
            UNION ALL
            SELECT id, loaded_at, cosineDistance(vector, given) AS distance, vdx_box(0, 0, 1, 1), _row_exists
            FROM images
            ORDER BY distance
            LIMIT 2 * assumeNotNull(wanted) + 20
            SETTINGS apply_deleted_mask = 0
        )
        WHERE is_there
    ) AS hits
SELECT id, source, dataset, own[1].3 AS distance, own[1].4 AS box
FROM
(
    SELECT id, source, dataset, arraySort(hit -> hit.3, arrayFilter(hit -> hit.1 = id AND hit.2 = loaded_at, hits)) AS own
    FROM
    (
        SELECT id, source, dataset, loaded_at
        FROM images
        WHERE id IN (hits.1) AND (id, loaded_at) GLOBAL NOT IN (SELECT id, loaded_at FROM superseded_images)
            AND id GLOBAL NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
        LIMIT 1 BY id
    )
)
WHERE notEmpty(own)
ORDER BY distance
LIMIT {k:UInt32};

-- next_to_label_regions(concept, k): k unjudged images to judge next by their best parts, with the reason of each: 5 in 10 the top of the
-- ranking, 3 of the next 4 k those whose probability is closest to 0.5, 2 at random, others after every label.
-- Example: SELECT * FROM next_to_label_regions(concept = 'circles', k = 9)
CREATE OR REPLACE VIEW next_to_label_regions AS
WITH
    assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current,
    toUInt32(round(0.5 * {k:UInt32})) AS top,
    toUInt32(round(0.3 * {k:UInt32})) AS uncertain,
    (SELECT sipHash64({concept:String} || toString(count())) FROM labels WHERE concept = {concept:String}) AS seed,
    any_images AS
    (
        SELECT id, source, dataset
        FROM current_images
        WHERE id GLOBAL NOT IN (SELECT image_id FROM current_labels WHERE concept = {concept:String})
        ORDER BY sipHash64(id, seed)
        LIMIT {k:UInt32}
    )
SELECT id, source, dataset, distance, box, vdx_sigmoid(current.2 * (1 - distance) + current.3) AS probability, reason
FROM
(
    SELECT id, source, dataset, distance, box, multiIf(place <= top, 'top', doubt <= uncertain, 'uncertain', 'more') AS reason
    FROM
    (
        SELECT *, row_number() OVER (PARTITION BY place > top ORDER BY abs(current.2 * (1 - distance) + current.3), id) AS doubt
        FROM
        (
            SELECT *, row_number() OVER (ORDER BY distance, id) AS place
            FROM search_concept_regions(concept = {concept:String}, k = 5 * {k:UInt32})
        )
    )
    UNION ALL
    SELECT id, any(name), any(set), 1 - max((cosine, area)).1, max((cosine, area)).2, 'random'
    FROM
    (
        SELECT image_id AS id, dotProduct(vector, vdx_region_target(current.1)) AS cosine, box AS area
        FROM current_regions
        WHERE image_id GLOBAL IN (SELECT id FROM any_images)
        UNION ALL
        SELECT id, dotProduct(vector, current.1), vdx_box(0, 0, 1, 1) FROM current_images WHERE id GLOBAL IN (SELECT id FROM any_images)
    ) AS parts
    INNER JOIN (SELECT id, source AS name, dataset AS set FROM any_images) AS known USING (id)
    GROUP BY id
)
ORDER BY indexOf(['top', 'uncertain', 'random', 'more'], reason), if(reason = 'random', sipHash64(id, seed), 0), distance
LIMIT 1 BY id
LIMIT {k:UInt32};

-- concept_region_scores(concept, image_id): the same under a concept: each part's probability.
-- Example: SELECT box, probability FROM concept_region_scores(concept = 'circles', image_id = 42) ORDER BY probability DESC LIMIT 3
CREATE OR REPLACE VIEW concept_region_scores AS
WITH assumeNotNull((SELECT (vdx_normalize(weight), logit_scale, bias) FROM current_weight(concept = {concept:String}))) AS current
SELECT place, box, vdx_probability(arrayPopBack(vector), current.1, current.2, current.3) AS probability
FROM regions
WHERE image_id = {image_id:UInt64} AND (image_id, loaded_at) GLOBAL IN (SELECT id, loaded_at FROM current_images WHERE id = {image_id:UInt64})
ORDER BY place
LIMIT 1 BY place;
