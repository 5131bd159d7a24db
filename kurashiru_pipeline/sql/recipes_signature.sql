-- Whether recipes.sql would answer as before: a row changes only together with its updated_at (load_recipes.sql), and
-- the sum of the hashes tells rows that came and went in equal number.
-- statement: signature
select
    count(*) as recipe_count,
    max(updated_at) as newest,
    cast(sum(hash(recipe_id, updated_at, is_deleted)) as varchar) as digest
from staging.recipes;
