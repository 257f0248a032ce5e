-- The shape of a data set: clusters of pictures that look alike, named by words. `dataset` '' means all.

-- cluster_members(dataset, n): every image's cluster, numbered from 1, the largest first, and its cosine to the centre. n = 0 finds the
-- number (see vdx_kmeans). Centres come of 10,000 images, always the same at random; the same rows have the same clusters.
-- Example: SELECT cluster, count() FROM cluster_members(dataset = 'holiday', n = 6) GROUP BY cluster ORDER BY cluster
CREATE OR REPLACE VIEW cluster_members AS
SELECT id, pair.2 AS cluster, pair.3 AS cosine
FROM
(
    SELECT ids, vdx_near(vectors, found.centres, 1::UInt32, -2::Float32) AS pairs
    FROM vector_blocks(dataset = {dataset:String}, attribute = '', value = '')
    CROSS JOIN
    (
        SELECT vdx_kmeans(groupArray(vector), {n:UInt32}) AS centres
        FROM
        (
            SELECT vector FROM current_images
            WHERE {dataset:String} = '' OR dataset = {dataset:String}
            ORDER BY sipHash64(id), id
            LIMIT 10000
        )
    ) AS found
)
ARRAY JOIN ids AS id, pairs AS pair
SETTINGS max_block_size = 1;

-- vocabulary: words that clusters are named by; the vector is the encoder's, unless one is given. Words for photographs come with
-- sql/datasets/vocabulary.sql, your own are more rows.
-- Example: INSERT INTO vocabulary (word) VALUES ('red circle'), ('green star')
CREATE TABLE IF NOT EXISTS vocabulary
(
    word String,
    vector Array(Float32) DEFAULT encode_text(concat('a photo of a ', word)) CODEC(NONE),
    model LowCardinality(String) DEFAULT encoder_info()['model'],
    weights_hash LowCardinality(String) DEFAULT encoder_info()['weights_hash']
)
ENGINE = ReplacingMergeTree ORDER BY (weights_hash, word);

-- clusters(dataset, n): of each cluster its size, spread (the mean cosine distance to the centre), the nine images nearest to the centre,
-- nearest first, and the five words of the vocabulary that it is nearer to than the data set's mean image is, by the difference of
-- cosines; `name` is the first. Words of other weights than the images' are passed over; without any, name is ''.
-- Example: SELECT cluster, name, size, spread, typical FROM clusters(dataset = 'holiday', n = 6)
CREATE OR REPLACE VIEW clusters AS
WITH
    members AS
    (
        SELECT id, cluster, cosine, source, vector, weights_hash
        FROM cluster_members(dataset = {dataset:String}, n = {n:UInt32}) AS near
        INNER JOIN (SELECT id, source, vector, weights_hash FROM current_images) AS pictures USING (id)
    ),
    centres AS
    (
        SELECT cluster, count() AS size, avg(1 - cosine) AS spread, any(weights_hash) AS weights_hash,
            arrayMap(hit -> hit.2, arraySort(hit -> (-hit.1, hit.2), groupArray((cosine, id)))) AS by_cosine,
            avgForEach(vector) AS mean
        FROM members
        GROUP BY cluster
    ),
    named AS
    (
        SELECT cluster, arrayMap(hit -> hit.2, arraySlice(arraySort(hit -> (-hit.1, hit.2), groupArray((difference, word))), 1, 5)) AS words
        FROM
        (
            SELECT cluster, word, dotProduct(vector, direction) AS difference
            FROM
            (
                SELECT cluster, weights_hash, if(count() OVER () = 1, vdx_normalize(mean), arrayMap((a, b) -> a - b, vdx_normalize(mean), vdx_normalize(whole))) AS direction
                FROM centres
                CROSS JOIN (SELECT sumForEach(arrayMap(x -> x * size, mean)) AS whole FROM centres) AS everything
            ) AS each
            INNER JOIN (SELECT word, weights_hash, vector FROM vocabulary FINAL) AS spoken USING (weights_hash)
        )
        GROUP BY cluster
    )
SELECT cluster, if(empty(words), '', words[1]) AS name, size, spread, arraySlice(by_cosine, 1, 9) AS typical, words
FROM centres
LEFT JOIN named USING (cluster)
ORDER BY cluster;
