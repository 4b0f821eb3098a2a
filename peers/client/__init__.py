"""Submit tasks from Python, wait for their results, and manage them.

Users call `@task`, `submit`, `graph` and `Client`. Each operation (`operations`) becomes a request:
a statement (`statements`) with a JSON document. A `Client` (`client`, `async_client`) performs it
exactly once (`transaction`), on a connection of its own (`pool`). Other requests are performed
inside a transaction of the application (`targets`), or by the peer of a running handler
(`transport`). `forms` makes the functions that users call.
"""
