-- Everything was sent to the new table.
-- statement: finish
update ops.delivery_targets
set is_resend_pending = false
where table_name = {{ table_name }};
