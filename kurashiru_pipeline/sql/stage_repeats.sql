-- Which of the parsed lines deliver an event once more: an event_id counts once in the window.
-- statement: repeats
insert into repeated_lines
with several_times as (
    select event_id
    from parsed_lines
    where reject_reason is null
    group by event_id
    having count(*) > 1
),

deliveries as (
    select
        file_name,
        file_row_number,
        row_number() over (partition by event_id order by loaded_at, file_name, file_row_number) as delivery
    from parsed_lines
    where reject_reason is null and event_id in (select event_id from several_times)
)

select
    file_name,
    file_row_number
from deliveries
where delivery > 1
union
select
    lines.file_name,
    lines.file_row_number
from parsed_lines as lines
inner join staging.behavior_events as known on lines.event_id = known.event_id
where lines.reject_reason is null and known.loaded_at >= {{ duplicates_from }};
