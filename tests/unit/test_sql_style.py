from pathlib import Path

import pytest

from tools.sqlstyle.lexer import UnterminatedError
from tools.sqlstyle.rules import MAX_COLUMNS, RULES, Finding, check, main
from tools.sqlstyle.statements import SqlFile

PINNED = "set search_path = peers, pg_temp"

GOOD_FILE = f"""\
-- The nouns. CAPITALS are welcome in comments, and so is a 'stray quote''s other half.
create table if not exists peers.task (
    id bigint generated always as identity primary key,
    price numeric(10, 2) not null default 1.5 check (price in (1.5, 2)),
    "Odd name" text default 'UPPER; not the end',
    constraint "price is not absurd" check (price < 100),
    unique (price)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
alter table peers.task add column if not exists kind text, add column note text;

comment on table peers.task is 'One row is one unit of work: INSERT it.';
comment on column peers.task.id is 'Its number.';
comment on column peers.task.price is $$What it's worth.$$;
comment on column peers.task."Odd name" is 'Its name; '
    'in two pieces.';
comment on column peers.task.kind is E'Its \\'kind\\'.';
comment on column peers.task.note is 'Anything.';

-- serves claim(): the next ready tasks of a queue
create index if not exists task_price on peers.task (price);

create or replace function peers.claim(asked integer default 1) returns table (id bigint)
    language plpgsql security definer {PINNED}
as $body$
begin
    grant execute on function peers.claim(integer) to current_user;
    raise notice 'EXECUTE %', format('%s', $$QUOTED; text$$);
    return query select t.id from peers.task t where t.price > $1;
end
$body$;
create or replace function peers.claim(asked text) returns bigint
    language sql set search_path to pg_catalog as $$ select 1 $$;
create or replace function peers._sum(a integer, b integer) returns integer
    language sql immutable return a + b;
create or replace function peers._first() returns table (id bigint) language sql stable
begin atomic
    select case when t.price > 1 then t.id end from peers.task t;
end;
comment on function peers.claim(integer) is 'Claim tasks.';
comment on function peers.claim(text) is 'Claim tasks, the wordy way.';

create or replace function peers._clock() returns trigger
    language plpgsql {PINNED} as $$ begin return new; end $$;
create or replace trigger clock before insert on peers.task
    for each row execute function peers._clock();
create constraint trigger clock_late after insert on peers.task
    for each row execute function peers._clock();

create or replace view peers.running as select id from peers.task;
comment on view peers.running is 'What runs.';
do $$ begin create type peers.state as enum ('A'); exception when others then null; end $$;
"""

FUNCTION = "create or replace function _f() returns int language plpgsql"
VIEW = "create or replace view peers.v as select 1;"
VIEW_COMMENT = "comment on view peers.v is 'What it shows.';"
TRIGGER = "create trigger t after insert on peers.task execute function _f();"

# Each sample breaks one rule, once: (rule, line, text).
BAD = {
    "tab": ("layout", 1, "select\t1;"),
    "trailing space": ("layout", 2, "select\n    1 \n;"),
    "long line": ("layout", 1, f"-- {'x' * (MAX_COLUMNS - 2)}"),
    "keyword": ("lower-case", 2, "select 1\nFROM peers.task;"),
    "unquoted name": ("lower-case", 1, "select 1 from peers.Task;"),
    "keyword in a body": ("lower-case", 2, f"{FUNCTION} {PINNED} as $$ begin\nRETURN 1; end $$;"),
    "keyword in a block": ("lower-case", 2, "do $x$ begin\n NULL; end $x$;"),
    "no path": ("search-path", 1, f"{FUNCTION} as $$ begin return 1; end $$;"),
    "path in the body": ("search-path", 1, f"{FUNCTION} as $$\nbegin {PINNED}; end $$;"),
    "path of the caller": ("search-path", 1, f"{FUNCTION} set search_path from current as $$ $$;"),
    "procedure without path": (
        "search-path",
        1,
        "create or replace procedure _p() language sql as $$ select 1 $$;",
    ),
    "pg_temp first": (
        "search-path",
        1,
        f"{FUNCTION} security definer\nset search_path = pg_temp, peers as $$ begin end $$;",
    ),
    "execute format()": (
        "static-sql",
        2,
        f"{FUNCTION} {PINNED} as $$ begin\n execute format('drop table %I', 'x'); end $$;",
    ),
    "execute a || b": (
        "static-sql",
        2,
        f"{FUNCTION} {PINNED} as $$ begin\nreturn query execute 'a' || 1; end $$;",
    ),
    "execute in a block": ("static-sql", 1, "do $$ begin execute 'analyze'; end $$;"),
    "bare schema": ("repeatable", 1, "create schema peers;"),
    "bare table": ("repeatable", 1, "create unlogged table t (); comment on table t is 'One t.';"),
    "bare view": ("repeatable", 1, f"create view peers.v as select 1; {VIEW_COMMENT}"),
    "bare function": (
        "repeatable",
        1,
        f"create function _f() returns int language sql {PINNED} as $$ select 1 $$;",
    ),
    "bare trigger": ("repeatable", 1, TRIGGER),
    "bare index": ("repeatable", 2, "-- serves claim()\ncreate unique index i on t (a);"),
    "index on line 1": ("named-query", 1, "create index if not exists i on t (a);"),
    "blank line above": (
        "named-query",
        3,
        "-- serves claim()\n\ncreate index if not exists i on t (a);",
    ),
    "ruler above": ("named-query", 2, "-----\ncreate unique index if not exists i on t (a);"),
    "silent view": ("commented", 1, VIEW),
    "silent table": ("commented", 1, "create table if not exists _empty ();"),
    "silent column": (
        "commented",
        2,
        "comment on table t is 'One t.';\ncreate table if not exists t (a int, primary key (a));",
    ),
    "silent added column": ("commented", 1, "alter table only t add column a int;"),
    "silent function": (
        "commented",
        1,
        f"create or replace function f() returns int language sql {PINNED} as $$ $$;",
    ),
    "empty comment": ("commented", 1, f"{VIEW}\ncomment on view peers.v is '';"),
    "comment taken back": ("commented", 1, f"{VIEW}\ncomment on view peers.v is null;"),
}


def checked(*texts: str) -> list[Finding]:
    """Check the texts as the files 0.sql, 1.sql ... of one schema."""
    return check(SqlFile.parse(f"{number}.sql", text) for number, text in enumerate(texts))


def test_well_written_sql_passes() -> None:
    """SQL in the house style, with every construct that could mislead a rule, has no finding."""
    assert checked(GOOD_FILE) == []


@pytest.mark.parametrize(("rule", "line", "text"), BAD.values(), ids=BAD)
def test_a_breach_is_found_at_its_line(rule: str, line: int, text: str) -> None:
    """Each breach is found by the one rule that forbids it, and at its line."""
    assert [(finding.rule, finding.line) for finding in checked(text)] == [(rule, line)]


def test_every_rule_has_a_bad_sample() -> None:
    """No rule is without a sample that it catches."""
    names = {rule.__name__.replace("_", "-") for rule in RULES} | {"commented"}
    assert {rule for rule, _, _ in BAD.values()} == names


def test_an_overload_needs_a_comment_of_its_own() -> None:
    """Two functions of one name with one comment between them make one finding."""
    first = f"create or replace function f(int) returns int language sql {PINNED} as $$ $$;"
    second = first.replace("(int)", "(text)")
    findings = checked(f"{first}\n{second}\ncomment on function f(int) is 'One.';")
    assert [(finding.rule, finding.line) for finding in findings] == [("commented", 2)]


def test_a_comment_may_stand_in_another_file() -> None:
    """Files are one schema: a comment counts wherever it stands."""
    assert checked(VIEW, VIEW_COMMENT) == []


@pytest.mark.parametrize("text", ["select 'x", 'select "x', "as $f$ select 1 $g$", "/* x"])
def test_an_unterminated_quote_is_named(text: str) -> None:
    """A quote that never ends is an error at its line, not a silent end of the check."""
    with pytest.raises(UnterminatedError, match="never closed") as raised:
        SqlFile.parse("0.sql", f"select 1;\n{text}")
    assert raised.value.line == 2


def test_the_command_reports_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files below the folder are found, each finding is a line, and the exit code is 1."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.sql").write_text("select 1;\nSELECT 2;\n")
    (tmp_path / "b.sql").write_text("select 'x;\n")
    assert main([str(tmp_path)]) == 1
    output = capsys.readouterr().out
    assert f"{tmp_path}/deep/a.sql:2: lower-case: SELECT is not in lower case" in output
    assert f"{tmp_path}/b.sql:1: syntax: ' opened here is never closed" in output
    assert "2 files, 2 findings" in output


def test_the_command_passes_clean_files(tmp_path: Path) -> None:
    """Clean files end in exit code 0."""
    (tmp_path / "a.sql").write_text(GOOD_FILE)
    assert main([str(tmp_path)]) == 0


def test_the_command_refuses_to_check_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder without SQL is a mistake in the call (exit code 2), never a success."""
    assert main([str(tmp_path)]) == 2
    assert f"no .sql file below {tmp_path}" in capsys.readouterr().err
