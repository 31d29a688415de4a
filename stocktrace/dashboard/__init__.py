"""The live page: a process of its own that reads the data folder and never writes to it.

    tail ──rows──▶ session view, charts ──newest state──▶ broadcast ──Server-Sent Events──▶ page
    status, report, audit log ──┘

A viewer is sent the newest state whenever it is ready for one, so no queue grows.
"""
