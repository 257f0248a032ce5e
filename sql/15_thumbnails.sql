-- Thumbnails of images: those that are kept, and those that are still to be made.

-- kept_thumbnails(ids, side): the thumbnails that are kept of these images; no row for an image that has none of this side.
-- Example: SELECT id, length(bytes) FROM kept_thumbnails(ids = [42], side = 256)
CREATE OR REPLACE VIEW kept_thumbnails AS
WITH wanted AS
(
    SELECT id, vdx_picture_key(source, content_hash) AS content_hash FROM current_images WHERE id IN {ids:Array(UInt64)}
)
SELECT id, bytes
FROM wanted
GLOBAL INNER JOIN
(
    SELECT content_hash, bytes
    FROM thumbnails
    WHERE side = {side:UInt16} AND content_hash GLOBAL IN (SELECT content_hash FROM wanted)
    LIMIT 1 BY content_hash
) AS kept USING (content_hash);

-- missing_thumbnails(ids, side): rows for thumbnails, of those of these images that have none of this side and whose picture the
-- encoder can read. What it cannot, image_thumbnails names.
-- Example: SELECT hex(content_hash), length(bytes) FROM missing_thumbnails(ids = [42], side = 256)
CREATE OR REPLACE VIEW missing_thumbnails AS
SELECT content_hash, {side:UInt16} AS side, made.bytes AS bytes
FROM
(
    SELECT content_hash, try_thumbnail(source, {side:UInt16}) AS made
    FROM
    (
        SELECT vdx_picture_key(source, content_hash) AS content_hash, source
        FROM current_images
        WHERE id IN {ids:Array(UInt64)} AND id GLOBAL NOT IN (SELECT id FROM kept_thumbnails(ids = {ids:Array(UInt64)}, side = {side:UInt16}))
        -- Without it, the condition on the error would be computed together with this one, so for what is kept, too.
        LIMIT 1 BY content_hash
    )
)
WHERE made.error = '';

-- missing_thumbnails_of(dataset, side): the same for all images of a data set; '' stands for all of them.
-- Example: SELECT count(), sum(length(bytes)) FROM missing_thumbnails_of(dataset = 'holiday', side = 256)
CREATE OR REPLACE VIEW missing_thumbnails_of AS
SELECT content_hash, {side:UInt16} AS side, made.bytes AS bytes
FROM
(
    SELECT content_hash, try_thumbnail(source, {side:UInt16}) AS made
    FROM
    (
        SELECT vdx_picture_key(source, content_hash) AS content_hash, source
        FROM current_images
        WHERE ({dataset:String} = '' OR dataset = {dataset:String})
            AND vdx_picture_key(source, content_hash) GLOBAL NOT IN (SELECT content_hash FROM thumbnails WHERE side = {side:UInt16})
        LIMIT 1 BY content_hash
    )
)
WHERE made.error = '';

-- image_thumbnails(ids, side): a thumbnail of each of these images, the kept one or one made now, which is not kept by that; where
-- it cannot be made, no bytes and the reason.
-- Example: SELECT id, length(bytes), error FROM image_thumbnails(ids = [42], side = 96)
CREATE OR REPLACE VIEW image_thumbnails AS
SELECT id, bytes, '' AS error
FROM kept_thumbnails(ids = {ids:Array(UInt64)}, side = {side:UInt16})
UNION ALL
SELECT id, made.bytes, made.error
FROM
(
    SELECT id, try_thumbnail(source, {side:UInt16}) AS made
    FROM current_images
    WHERE id IN {ids:Array(UInt64)} AND id GLOBAL NOT IN (SELECT id FROM kept_thumbnails(ids = {ids:Array(UInt64)}, side = {side:UInt16}))
);

-- unused_thumbnails: what is kept of pictures that no image has any more: they were deleted, or their content changed.
-- DELETE FROM thumbnails WHERE content_hash IN (SELECT content_hash FROM unused_thumbnails) removes it.
-- Example: SELECT count(), sum(size) FROM unused_thumbnails
CREATE OR REPLACE VIEW unused_thumbnails AS
SELECT content_hash, side, length(bytes) AS size
FROM thumbnails
WHERE content_hash GLOBAL NOT IN (SELECT vdx_picture_key(source, content_hash) FROM current_images);
