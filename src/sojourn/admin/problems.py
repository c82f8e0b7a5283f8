"""What operators and their programs are told when a request is not carried out: the API's own rows of the table."""

from __future__ import annotations

from typing import Final

from sojourn.web import problems
from sojourn.web.problems import ProblemType, table_of


class Kind(problems.Kind):
    """The reasons for which a request to the admin API may be refused."""

    BAD_QUERY = ProblemType("bad_query", 400, "The query is wrong", "See errors: each names its parameter.")
    NO_ACCESS = ProblemType(
        "no_access",
        403,
        "Nobody may come in here yet",
        "Configure [admin] token or tokens, let a browser in with: sojourn login-link, or use the control socket.",
    )
    BAD_LINK = ProblemType(
        "bad_login_link",
        401,
        "This link is not good (any more)",
        "It works once and not for long; get a new one with: sojourn login-link",
        challenge="",
    )
    NO_CSRF = ProblemType(
        "no_csrf_token",
        403,
        "Not without the page's token",
        "Send X-CSRF-Token as GET /api/v1/session has it.",
    )
    BAD_CONFIG = ProblemType(
        "bad_configuration", 422, "Configuration has problems", "Mend them; the old one stays in force."
    )


TABLE: Final = table_of(Kind)
