-- The table is not the one we delivered to: forget what was delivered, and send everything once.
-- statement: forget_items all of serving.delivered_items

-- statement: forget_target
delete from ops.delivery_targets
where table_name = {{ table_name }};

-- statement: target
insert into ops.delivery_targets
select
    {{ table_name }} as table_name,
    {{ delivery_id }} as delivery_id,
    true as is_resend_pending;
