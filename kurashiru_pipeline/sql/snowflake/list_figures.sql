-- What the check of the lists looks at.
-- statement: figures
select
    count(case when user_id not like '#%' then 1 end) as users,
    count(
        case
            when
                user_id not like '#%'
                and substr(md5({{ challenger_version }} || ':' || user_id), 1, 8) < {{ challenger_threshold }}
                then 1
        end
    ) as challenger_users,
    coalesce(sum(array_size(result:recipe_ids)), 0) as recipes_listed,
    count(case when array_size(result:recipe_ids) = 0 then 1 end) as empty_lists,
    coalesce(
        sum(array_size(result:recipe_ids) - array_size(array_distinct(result:recipe_ids::array))), 0
    ) as repeated_recipes
from kernel_results
where result:error is null;
