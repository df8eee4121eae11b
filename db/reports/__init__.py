"""Reports: what there is, what happened, what it cost; read from replicas, a module each.

`db.reports.report` has the list of them, and answers one for an organization; `db.reports.everywhere` one for all
organizations, wherever they are.
"""
