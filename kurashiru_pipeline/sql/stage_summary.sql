-- What the parsed micro-batch holds; its load times bound the search for duplicates.
-- statement: summary
select
    count(*) as read_count,
    count(case when reject_reason is not null then 1 end) as rejected_count,
    min(loaded_at) as loaded_from,
    max(case when reject_reason is null and occurred_at <= loaded_at then occurred_at end) as latest_occurred_at
from parsed_lines;
