-- Ledger: a stage of a micro-batch is done. Written in the transaction that does it.
-- statement: finish
insert into ops.batch_stages
select
    {{ batch_id }} as batch_id,
    {{ stage }} as stage,
    {{ finished_at }} as finished_at,
    {{ seconds }} as seconds,
    {{ row_count }} as row_count;
