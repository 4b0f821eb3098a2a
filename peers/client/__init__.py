"""Submitting tasks from Python, and looking after them: `@task`, `submit`, `graph`, `Client`.

An operation (`operations`) becomes a request: a statement (`statements`) with a JSON document. A
request is performed by a `Client` (`client`, `async_client`) on a connection of its own (`pool`),
exactly once (`transaction`), inside a transaction of the application (`targets`), or by the peer of
a running handler (`transport`). `forms` makes the functions that users call.
"""
