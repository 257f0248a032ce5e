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
-- nearest first, and the five words of the vocabulary that stand out for it: by how much nearer they are to its mean than to the data
-- set's. `name` is the first of them; words of other weights than the images' are passed over, and without any it is ''.
-- Example: SELECT cluster, name, size, spread, typical FROM clusters(dataset = 'holiday', n = 6)
CREATE OR REPLACE VIEW clusters AS
WITH
    every AS
    (
        SELECT
            cluster, count() AS size, avg(1 - cosine) AS spread, avgForEach(vector) AS mean,
            arraySlice(arraySort(hit -> (-hit.1, hit.2), groupArray((cosine, id))), 1, 9).2 AS typical
        FROM cluster_members(dataset = {dataset:String}, n = {n:UInt32}) AS members
        INNER JOIN (SELECT id, vector FROM current_images) AS pictures USING (id)
        GROUP BY cluster
        ORDER BY cluster
    ),
    together AS
    (
        SELECT
            groupArray((cluster, size, spread, typical)) AS found,
            vdx_normalize(sumForEach(arrayMap(x -> x * size, mean))) AS whole,
            groupArray(vdx_normalize(mean)) AS centres,
            arrayMap(
                centre -> arrayMap((x, y) -> toFloat32(if(length(centres) = 1, x, x - y)), centre, whole),
                centres) AS directions
        FROM every
    ),
    named AS
    (
        SELECT found, words, vdx_near(directions, vectors, 5::UInt32, -3::Float32) AS best
        FROM together
        CROSS JOIN
        (
            SELECT groupArray(word) AS words, groupArray(vector) AS vectors
            FROM vocabulary FINAL
            WHERE weights_hash IN (
                SELECT weights_hash FROM current_images
                WHERE {dataset:String} = '' OR dataset = {dataset:String}
                GROUP BY weights_hash ORDER BY count() DESC LIMIT 1)
        ) AS spoken
    )
SELECT
    row.1 AS cluster,
    nearest_words[1] AS name,
    row.2 AS size,
    row.3 AS spread,
    row.4 AS typical,
    arrayMap(hit -> words[hit.2], arrayFilter(hit -> hit.1 = place, best)) AS nearest_words
FROM named
ARRAY JOIN found AS row, arrayEnumerate(found) AS place
ORDER BY cluster;
