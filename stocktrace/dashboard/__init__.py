"""The live page: a process of its own that reads the data folder and never writes to it.

    tail ──rows──▶ board, chart ──newest state──▶ room ──Server-Sent Events──▶ page
    status, report, audit log ──┘

Every viewer is given the newest state whenever it takes one: nobody's queue grows.
"""
