-- Zero-shot labels in plain SQL, with prompt templates from a table. classify() does the same with the default set.

-- templates_of(template_set): the prompt templates of a set; an error that names the sets where there is none of that name.
-- Example: SELECT template FROM templates_of(template_set = 'default')
CREATE OR REPLACE VIEW templates_of AS
WITH assumeNotNull((SELECT groupUniqArray(template_set::String) FROM prompt_templates)) AS known
SELECT arrayJoin(templates) AS template
FROM (SELECT groupArray(template) AS templates FROM prompt_templates WHERE template_set = {template_set:String})
WHERE NOT throwIf(NOT has(known, {template_set:String}), format('there is no template_set ''{}''; there are: {}',
    {template_set:String}, arrayStringConcat(arraySort(known), ', ')));

-- label_embeddings(labels, template_set): each label's unit vector, its prompts' embeddings averaged. An error where no label is
-- given or no such template_set exists.
-- Example: SELECT label, length(embedding) FROM label_embeddings(labels = ['red', 'blue'], template_set = 'default')
CREATE OR REPLACE VIEW label_embeddings AS
SELECT label, vdx_normalize(avgForEach(encode_text(vdx_prompt(template, label)))) AS embedding
FROM templates_of(template_set = {template_set:String})
ARRAY JOIN {labels:Array(String)} AS label
WHERE NOT throwIf(empty({labels:Array(String)}), 'labels is empty: name at least one label')
GROUP BY label;

-- zero_shot(labels, template_set): for every image its most probable label, and the probability of each.
-- Example: SELECT label, count() FROM zero_shot(labels = ['red', 'blue'], template_set = 'default') GROUP BY label
CREATE OR REPLACE VIEW zero_shot AS
WITH
    (
        SELECT (groupArray(label), groupArray(embedding))
        FROM label_embeddings(labels = {labels:Array(String)}, template_set = {template_set:String})
    ) AS known,
    assumeNotNull((SELECT toFloat64(encoder_info()['logit_scale']) FROM comparable)) AS logit_scale,
    vdx_softmax(arrayMap(embedding -> logit_scale * dotProduct(vector, embedding), known.2)) AS odds
SELECT
    id, source, dataset,
    known.1[indexOf(odds, arrayMax(odds))] AS label,
    arrayMax(odds) AS probability,
    CAST((known.1, odds), 'Map(String, Float64)') AS probabilities
FROM current_images;
