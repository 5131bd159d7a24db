-- How long after landing a micro-batch's lines were through a stage, a row a file.
-- statement: freshness
select
    files.line_count,
    {{ seconds_between('files.landed_at', 'stages.finished_at') }} as seconds
from ops.batch_files as files
inner join ops.batch_stages as stages on files.batch_id = stages.batch_id
where
    stages.stage = {{ stage }}
    and files.batch_id >= {{ from_batch_id }}
    and stages.batch_id >= {{ from_batch_id }};
