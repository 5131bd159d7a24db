-- Consume the stream of user exports; see take_recipe_exports.sql.
-- statement: take
insert into taken_users
select
    user_id,
    registered_at,
    preferred_tags,
    updated_at,
    coalesce(is_deleted, false) as is_deleted,
    file_name,
    file_row_number,
    landed_at,
    case
        when user_id is null or not {{ matches('user_id', id_pattern) }} then 'no valid user_id'
        when updated_at is null then 'no updated_at'
    end as refusal
from {{ stream('raw_user_exports') }};

-- statement: incoming
insert into incoming_users
select
    user_id,
    registered_at,
    preferred_tags,
    updated_at,
    is_deleted,
    row_number() over (order by file_name, file_row_number) as export_row
from taken_users
where refusal is null;

-- statement: refuse
insert into refused_exports
select
    file_name,
    'users' as kind,
    cast(count(*) as varchar) || ' rows have ' || refusal || ', the first is row '
    || cast(min(file_row_number) as varchar) as error,
    count(*) as line_count,
    min(landed_at) as landed_at
from taken_users
where refusal is not null
group by file_name, refusal;

-- statement: quarantine
insert into raw.loaded_files (file_name, kind, status, error, line_count, landed_at, loaded_at)
select
    file_name,
    kind,
    'failed' as status,
    error,
    line_count,
    landed_at,
    {{ loaded_at }} as loaded_at
from refused_exports
where kind = 'users';
