"""Handlers of different lengths, so that the panels of the dashboard have something to show."""

from __future__ import annotations

import random
import time

from peers import task


@task("thumbs.make", queue="media")
def make_thumbnail() -> None:
    """Take some milliseconds."""
    time.sleep(random.expovariate(1 / 0.01))


@task("mail.send", max_attempts=2)
def send_mail() -> None:
    """Take some more, and fail now and then."""
    time.sleep(random.expovariate(1 / 0.03))
    if random.random() < 0.3:
        raise ConnectionError("the mail server does not answer")


@task("report.render")
def render_report() -> None:
    """Fail for good."""
    raise ValueError("the template is missing")
