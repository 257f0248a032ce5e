-- likely_mistakes as it was until 0.1, for the benchmark of mistakes.
CREATE OR REPLACE VIEW likely_mistakes_before AS
WITH
    labelled AS
    (
        SELECT id, attributes[{attribute:String}] AS label, vector
        FROM current_images
        WHERE ({dataset:String} = '' OR dataset = {dataset:String}) AND label != ''
    ),
    (
        SELECT (groupArray(label), groupArray(total), groupArray(rows))
        FROM (SELECT label, sumForEach(vector) AS total, count() AS rows FROM labelled GROUP BY label ORDER BY label)
    ) AS classes,
    voted AS
    (
        SELECT id, sumMap(map(label, weight)) AS votes
        FROM
        (
            SELECT near.id AS id, named.label AS label,
                -- A neighbour counts by its distance over that of the farthest.
                exp(-(1 - near.cosine) / greatest(1e-6, max(1 - near.cosine) OVER (PARTITION BY near.id))) AS weight
            FROM current_neighbours(dataset = {dataset:String}) AS near
            INNER JOIN (SELECT id, label FROM labelled) AS named ON named.id = near.neighbour_id
        )
        GROUP BY id
    ),
    judged AS
    (
        SELECT
            id,
            label AS given,
            arrayMap(total -> dotProduct(vector, vdx_normalize(total)), classes.2) AS to_means,
            arrayMap(
                (name, total, rows, to_mean) -> multiIf(
                    name != label, to_mean,
                    rows > 1, dotProduct(vector, vdx_normalize(arrayMap((a, b) -> a - b, total, vector))),
                    -- The only one of its label: no other picture speaks for it or against it.
                    (arraySum(to_means) - to_mean) / greatest(1, length(to_means) - 1)),
                classes.1, classes.2, classes.3, to_means) AS cosines,
            arrayMap(name -> votes[name] / arraySum(mapValues(votes)), classes.1) AS shares
        FROM labelled
        INNER JOIN voted USING (id)
    ),
    scored AS
    (
        SELECT
            *,
            -- The classifier's scale is that of the cosines themselves: their deviation over all images and classes.
            greatest(1e-6, stddevPopArray(cosines) OVER ()) AS deviation,
            vdx_softmax(arrayMap(cosine -> 3 * cosine / deviation, cosines)) AS odds,
            arrayMap((share, odd) -> (share + odd) / 2, shares, odds) AS support
        FROM judged
    )
SELECT id, source, given, classes.1[indexOf(support, arrayMax(support))] AS suggested,
    1 - support[indexOf(classes.1, given)] AS suspicion,
    shares[indexOf(classes.1, given)] AS neighbour_share,
    odds[indexOf(classes.1, given)] AS classifier_probability
FROM scored
INNER JOIN (SELECT id, source FROM current_images) AS pictures USING (id)
ORDER BY suspicion DESC, id;

