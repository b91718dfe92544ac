"""The report on the published file: its queries, charts and page. What a query asks is defined by `views` and `proof`.

The asset `report/overview` and the command `report` make the report; neither is part of a sync.
"""
