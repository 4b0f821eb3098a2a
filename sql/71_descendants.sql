-- What a bulk verb does to the descendants of its tasks.

-- Returns the descendants that run once these dead letters have completed: they are blocked, and no other dead letter
-- above them holds them.
create or replace function peers._held_children(_ids bigint[]) returns bigint[]
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_mergejoin = off
as $$
declare
    _below bigint[];
    _others bigint[];
begin
    _below := array(
        with recursive below(id) as (
            select i.id from unnest(_ids) i(id)
            union
            select d.child_id
            from below join peers.dependency d on d.parent_id = below.id
            cross join lateral (select from peers.task c where c.id = d.child_id and c.state = 'blocked' offset 0) c
            where not d.waived
        )
        select below.id from below
    );
    if cardinality(_below) = cardinality(_ids) then
        return '{}';
    end if;
    -- the other dead letters that hold some of them
    _others := array(
        with recursive above(id, state) as (
            select i.id, 'blocked'::peers.task_state from unnest(_below) i(id)
            union
            select d.parent_id, p.state
            from above join peers.dependency d on d.child_id = above.id
            cross join lateral (
                select p.state from peers.task p where p.id = d.parent_id and p.state in ('blocked', 'dead') offset 0
            ) p
            where not d.waived and above.state = 'blocked'
        )
        select above.id from above where above.state = 'dead'
        except
        select i.id from unnest(_ids) i(id)
    );
    return array(
        with recursive held(id) as (
            select o.id from unnest(_others) o(id)
            union
            select d.child_id
            from held join peers.dependency d on d.parent_id = held.id
            cross join lateral (select from peers.task c where c.id = d.child_id and c.state = 'blocked' offset 0) c
            where not d.waived
        )
        select b.id from unnest(_below) b(id)
        except
        select i.id from unnest(_ids) i(id)
        except
        select held.id from held
    );
end
$$;

-- Returns how many descendants are cancelled together with these tasks.
create or replace function peers._count_cancelled_children(_ids bigint[]) returns bigint
    language plpgsql stable
    set search_path = pg_catalog, peers, pg_temp
    set jit = off
    set plan_cache_mode = force_generic_plan
    set enable_seqscan = off
    set enable_bitmapscan = off
    set enable_mergejoin = off
as $$
declare
    _waiting constant bigint[] := array(select t.id from peers.task t where t.id = any (_ids) and t.state <> 'running');
    _lost constant bigint[] := array(
        select f.id from peers._affected('{}', '{}', _waiting) f where f.to_cancel
        except
        select i.id from unnest(_ids) i(id)
    );
begin
    return (
        select count(*) from peers.task t
        where t.id = any (_lost) and t.state in ('blocked', 'scheduled', 'ready', 'dead')
    );
end
$$;
