-- What the kernel's functions answer: written once, so that no rewriting of the query can call them twice.
-- statement: kernel_results
create or replace temporary table kernel_results (
    user_id varchar,
    result variant
);
