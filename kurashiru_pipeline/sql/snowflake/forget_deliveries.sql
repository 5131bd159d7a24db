-- Candidates and answers of deliveries that are over, a day old: what was delivered stands in serving.delivered_items.
-- statement: answers
delete from serving.delivery_results
where batch_id in (
    select batch_id from ops.batch_stages
    where stage = {{ last_stage }} and finished_at < {{ cutoff }}
);

-- statement: candidates
delete from serving.delivery_candidates
where batch_id in (
    select batch_id from ops.batch_stages
    where stage = {{ last_stage }} and finished_at < {{ cutoff }}
);
