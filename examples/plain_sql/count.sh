#!/usr/bin/env bash
# Count the words of files on the peers: plain_sql/count.sh FILE...
set -euo pipefail

run_sql() {
    psql "$PEERS_DATABASE_URL" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"
}

# One statement, so one transaction: a task for each file, the task that adds up, and the edges between them.
# psql quotes :'paths' itself. unnest() keeps the order of the paths.
paths=$(realpath -- "$@")
total=$(run_sql --set "paths=$paths" <<'SQL'
WITH file AS (
    INSERT INTO peers.task (kind, args)
    SELECT 'words.count', jsonb_build_object('path', path)
    FROM string_to_table(:'paths', E'\n') AS path
    RETURNING id
), total AS (
    INSERT INTO peers.task (kind) VALUES ('words.total') RETURNING id
), edge AS (
    INSERT INTO peers.dependency (parent_id, child_id)
    SELECT file.id, total.id FROM file, total
)
SELECT id FROM total;
SQL
)

# Poll until the task has ended, or cannot go on without a person.
for ((second = 0; second < ${PATIENCE:-60} * 10; second++)); do
    answer=$(run_sql --set "total=$total" <<'SQL'
SELECT CASE
           WHEN task.state = 'completed' THEN 'done ' || task.result::text
           WHEN task.state IN ('dead', 'cancelled') OR EXISTS (
               SELECT FROM peers.dependency d JOIN peers.dead ON dead.task_id = d.parent_id
               WHERE d.child_id = task.id) THEN 'failed ' || peers.explain(task.id)
       END
FROM peers.task WHERE task.id = :total;
SQL
    )
    case $answer in
        done*) echo "${answer#done } words"; exit 0 ;;
        failed*) echo "${answer#failed }" >&2; exit 1 ;;
    esac
    sleep 0.1
done
run_sql --set "total=$total" <<<'SELECT peers.explain(:total);' >&2
exit 1
