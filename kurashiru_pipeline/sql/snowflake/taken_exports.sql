-- Files the exports just taken came from, by kind.
-- statement: files
select
    kind,
    count(distinct file_name) as file_count
from (
    select
        'recipes' as kind,
        file_name
    from taken_recipes
    union all
    select
        'users' as kind,
        file_name
    from taken_users
) as taken
group by kind
order by kind;
